// Clients by gRPC that only listen, with the code that Centrifugo's own description makes: the address of a node and a
// connect request in JSON are the arguments. What is pushed is written in JSON, a line each, and then how it ended.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"roomcast.test/grpc/unistream"
)

func main() {
	request := &unistream.ConnectRequest{}
	if err := protojson.Unmarshal([]byte(os.Args[2]), request); err != nil {
		panic(err)
	}
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		// The end of the input is that of the client.
		os.Stdin.Read(make([]byte, 1))
		cancel()
	}()
	ctx = metadata.AppendToOutgoingContext(ctx, os.Args[3:]...)
	stream, err := unistream.NewCentrifugoUniStreamClient(conn).Consume(ctx, request)
	for err == nil {
		var push *unistream.Push
		if push, err = stream.Recv(); err == nil {
			written, _ := protojson.MarshalOptions{UseProtoNames: true}.Marshal(push)
			fmt.Println(string(written))
		}
	}
	end := map[string]any{"end": status.Code(err).String(), "message": err.Error()}
	written, _ := json.Marshal(end)
	fmt.Println(string(written))
}
