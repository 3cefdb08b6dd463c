// An application's backend by gRPC, with the code that Centrifugo's own description makes: what it is asked it asks by HTTP
// at the URL that is its argument, as JSON and with the metadata as headers, and answers with what is answered there. Its
// own address is its first line.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"roomcast.test/grpc/proxyproto"
)

type backend struct {
	proxyproto.UnimplementedCentrifugoProxyServer
	url string
}

// Asks, and reads the answer into what is to be answered.
func ask[T proto.Message](ctx context.Context, b *backend, request proto.Message, answer T) (T, error) {
	method, _ := grpc.Method(ctx)
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(request)
	if err != nil {
		return answer, err
	}
	asked, err := http.NewRequestWithContext(ctx, "POST", b.url+"/"+strings.ToLower(path.Base(method)), bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	known, _ := metadata.FromIncomingContext(ctx)
	for name, values := range known {
		if !strings.HasPrefix(name, ":") && name != "te" {
			asked.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		asked.Header.Set("X-Deadline", deadline.String())
	}
	response, err := http.DefaultClient.Do(asked)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		return answer, err
	}
	if response.StatusCode != 200 {
		return answer, status.Error(codes.Code(response.StatusCode-200), string(said))
	}
	return answer, protojson.Unmarshal(said, answer)
}

func (b *backend) Connect(ctx context.Context, it *proxyproto.ConnectRequest) (*proxyproto.ConnectResponse, error) {
	return ask(ctx, b, it, &proxyproto.ConnectResponse{})
}

func (b *backend) Refresh(ctx context.Context, it *proxyproto.RefreshRequest) (*proxyproto.RefreshResponse, error) {
	return ask(ctx, b, it, &proxyproto.RefreshResponse{})
}

func (b *backend) Subscribe(ctx context.Context, it *proxyproto.SubscribeRequest) (*proxyproto.SubscribeResponse, error) {
	return ask(ctx, b, it, &proxyproto.SubscribeResponse{})
}

func (b *backend) Publish(ctx context.Context, it *proxyproto.PublishRequest) (*proxyproto.PublishResponse, error) {
	return ask(ctx, b, it, &proxyproto.PublishResponse{})
}

func (b *backend) RPC(ctx context.Context, it *proxyproto.RPCRequest) (*proxyproto.RPCResponse, error) {
	return ask(ctx, b, it, &proxyproto.RPCResponse{})
}

func (b *backend) SubRefresh(ctx context.Context, it *proxyproto.SubRefreshRequest) (*proxyproto.SubRefreshResponse, error) {
	return ask(ctx, b, it, &proxyproto.SubRefreshResponse{})
}

// What is said on a stream is what is asked for by HTTP, again and again: as JSON, 204 for nothing more, or a status that it ends with.
func say(ctx context.Context, b *backend, what string, body []byte, send func(*proxyproto.StreamSubscribeResponse) error) (bool, error) {
	asked, err := http.NewRequestWithContext(ctx, "POST", b.url+"/"+what, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	response, err := http.DefaultClient.Do(asked)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		return false, err
	}
	if response.StatusCode != 200 {
		return false, status.Error(codes.Code(response.StatusCode-200), string(said))
	}
	if string(said) == "end" {
		return false, nil
	}
	it := &proxyproto.StreamSubscribeResponse{}
	if err := protojson.Unmarshal(said, it); err != nil {
		return false, err
	}
	return true, send(it)
}

func asJson(message proto.Message) []byte {
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		panic(err)
	}
	return body
}

// After what the subscription comes to, one message after the other.
func (b *backend) SubscribeUnidirectional(it *proxyproto.SubscribeRequest, stream grpc.ServerStreamingServer[proxyproto.StreamSubscribeResponse]) error {
	what := "stream"
	for {
		more, err := say(stream.Context(), b, what, asJson(it), stream.Send)
		if err != nil || !more {
			return err
		}
		what = "stream_next"
	}
}

// After what the subscription comes to, one message for each that the client publishes.
func (b *backend) SubscribeBidirectional(stream grpc.BidiStreamingServer[proxyproto.StreamSubscribeRequest, proxyproto.StreamSubscribeResponse]) error {
	for {
		it, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		what := "stream"
		if it.Publication != nil {
			what = "stream_published"
		}
		more, err := say(stream.Context(), b, what, asJson(it), stream.Send)
		if err != nil || !more {
			return err
		}
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("{\"address\": %q}\n", listener.Addr())
	server := grpc.NewServer()
	proxyproto.RegisterCentrifugoProxyServer(server, &backend{url: os.Args[1]})
	go func() {
		// The end of the input is that of the backend.
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	panic(server.Serve(listener))
}
