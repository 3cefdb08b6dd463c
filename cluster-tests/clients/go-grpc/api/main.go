// Every method of the server API by gRPC, with the code that Centrifugo's own description makes: addresses of nodes,
// separated by commas, the key, and the id of a client of the first that may be moved about and closed are the
// arguments.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"roomcast.test/grpc/apiproto"
)

type api struct {
	clients []apiproto.CentrifugoApiClient
	turn    int
}

// Each node in turn: they answer alike.
func (a *api) node() apiproto.CentrifugoApiClient {
	a.turn++
	return a.clients[a.turn%len(a.clients)]
}

func connect(address string) *grpc.ClientConn {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err == nil, "connecting", err)
	return conn
}

func with(pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), pairs...)
}

func check(right bool, what string, seen ...any) {
	if !right {
		fmt.Fprintln(os.Stderr, append([]any{what + ":"}, seen...)...)
		os.Exit(1)
	}
}

func main() {
	time.AfterFunc(time.Minute, func() { check(false, "it takes more than a minute") })
	addresses, key, client := strings.Split(os.Args[1], ","), os.Args[2], os.Args[3]
	a := &api{}
	for _, address := range addresses {
		a.clients = append(a.clients, apiproto.NewCentrifugoApiClient(connect(address)))
	}
	ctx := with("authorization", "apikey "+key)
	a.rooms(ctx)
	a.maps(ctx)
	a.nodes(ctx, len(addresses))
	a.batch(ctx)
	a.connections(ctx, client)
	a.errors(ctx, key)
	refusals(ctx, connect(addresses[0]))
	fmt.Println("all of the API by gRPC")
}

func (a *api) rooms(ctx context.Context) {
	publish := &apiproto.PublishRequest{
		Channel: "tree", Data: []byte(`{"n":1}`), IdempotencyKey: "k", Tags: map[string]string{"a": "b"},
	}
	first, err := a.node().Publish(ctx, publish)
	check(err == nil && first.Error == nil && first.Result.Offset > 0, "publish", first, err)
	again, err := a.node().Publish(ctx, publish)
	check(err == nil && again.Result.Offset == first.Result.Offset, "the same again", again, err)
	inBase64 := &apiproto.PublishRequest{Channel: "tree", B64Data: "eyJuIjoyfQ=="}
	second, err := a.node().Publish(ctx, inBase64)
	check(err == nil && second.Result.Offset == first.Result.Offset+1, "in base64", second, err)
	done, err := a.node().Broadcast(ctx, &apiproto.BroadcastRequest{
		Channels: []string{"tree", "no:such"}, Data: []byte(`null`),
	})
	check(err == nil && len(done.Result.Responses) == 2, "broadcast", done, err)
	check(done.Result.Responses[0].Result.Offset == first.Result.Offset+2, "the first room of it", done)
	check(done.Result.Responses[1].Error.GetCode() == 102, "the second room of it", done)
	page, err := a.node().History(ctx, &apiproto.HistoryRequest{Channel: "tree", Limit: -1})
	check(err == nil && len(page.Result.Publications) == 3, "history", page, err)
	read := page.Result.Publications
	check(string(read[0].Data) == `{"n":1}` && read[0].Tags["a"] == "b", "the first of it", read[0])
	check(string(read[1].Data) == `{"n":2}` && string(read[2].Data) == "null", "the others of it", read)
	since := &apiproto.StreamPosition{Offset: read[1].Offset, Epoch: page.Result.Epoch}
	page, err = a.node().History(ctx, &apiproto.HistoryRequest{Channel: "tree", Limit: 5, Since: since})
	check(err == nil && len(page.Result.Publications) == 1, "history since", page, err)
	page, err = a.node().History(ctx, &apiproto.HistoryRequest{Channel: "tree", Limit: 1, Reverse: true})
	check(err == nil && string(page.Result.Publications[0].Data) == "null", "history in reverse", page, err)
	removed, err := a.node().HistoryRemove(ctx, &apiproto.HistoryRemoveRequest{Channel: "tree"})
	check(err == nil && removed.Error == nil && removed.Result != nil, "history_remove", removed, err)
	page, err = a.node().History(ctx, &apiproto.HistoryRequest{Channel: "tree", Limit: -1})
	check(err == nil && len(page.Result.Publications) == 0, "history that was removed", page, err)
}

func (a *api) maps(ctx context.Context) {
	put := func(key, data, mode string, score int64) *apiproto.MapPublishResponse {
		done, err := a.node().MapPublish(ctx, &apiproto.MapPublishRequest{
			Channel: "board:tree", Key: key, Data: []byte(data), KeyMode: mode, Score: score,
			Tags: map[string]string{"a": "b"},
		})
		check(err == nil, "map_publish", done, err)
		return done
	}
	first := put("ann", `{"n":1}`, "", 3)
	check(first.Error == nil && first.Result.Offset == 1 && !first.Result.Suppressed, "the first put", first)
	check(put("bob", `{"n":2}`, "if_new", 7).Result.Offset == 2, "a put of a new key")
	kept := put("bob", `{"n":3}`, "if_new", 7)
	check(kept.Result.Suppressed && kept.Result.SuppressReason != "", "a put that changes nothing", kept)
	check(put("", `1`, "", 0).Error.GetCode() == 107, "a put without a key")
	state, err := a.node().MapReadState(ctx, &apiproto.MapReadStateRequest{Channel: "board:tree", Limit: 1})
	check(err == nil && len(state.Result.Entries) == 1 && state.Result.Cursor != "", "the first page", state, err)
	best := state.Result.Entries[0]
	check(best.Key == "bob" && string(best.Data) == `{"n":2}` && best.Score == 7 && best.Tags["a"] == "b", "the best", best)
	state, err = a.node().MapReadState(ctx, &apiproto.MapReadStateRequest{
		Channel: "board:tree", Limit: 9, Cursor: state.Result.Cursor,
		RevisionOffset: state.Result.Offset, RevisionEpoch: state.Result.Epoch,
	})
	check(err == nil && len(state.Result.Entries) == 1 && state.Result.Entries[0].Key == "ann", "the last page", state, err)
	stats, err := a.node().MapStats(ctx, &apiproto.MapStatsRequest{Channel: "board:tree"})
	check(err == nil && stats.Result.NumKeys == 2, "map_stats", stats, err)
	removed, err := a.node().MapRemove(ctx, &apiproto.MapRemoveRequest{Channel: "board:tree", Key: "ann"})
	check(err == nil && removed.Result.Offset == 3, "map_remove", removed, err)
	changes, err := a.node().MapReadStream(ctx, &apiproto.MapReadStreamRequest{
		Channel: "board:tree", Limit: -1, SinceOffset: 1, SinceEpoch: state.Result.Epoch,
	})
	check(err == nil && len(changes.Result.Entries) == 2, "map_read_stream", changes, err)
	last := changes.Result.Entries[1]
	check(last.Key == "ann" && last.Removed && last.Offset == 3, "the removal", last)
	replies, err := a.node().Batch(ctx, &apiproto.BatchRequest{Commands: []*apiproto.Command{
		{MapClear: &apiproto.MapClearRequest{Channel: "board:tree"}},
		{MapStats: &apiproto.MapStatsRequest{Channel: "board:tree"}},
		{MapStats: &apiproto.MapStatsRequest{Channel: "tree"}},
	}})
	check(err == nil && len(replies.Replies) == 3, "a batch of maps", replies, err)
	it := replies.Replies
	check(it[0].MapClear != nil && it[1].MapStats.GetNumKeys() == 0 && it[1].Error == nil, "a map that is cleared", it)
	check(it[2].Error.GetCode() != 0, "a room that is no map", it)
}

func (a *api) nodes(ctx context.Context, count int) {
	info, err := a.node().Info(ctx, &apiproto.InfoRequest{})
	check(err == nil && len(info.Result.Nodes) == count, "info", info, err)
	check(info.Result.Nodes[0].Uid != "" && info.Result.Nodes[0].Version != "", "a node of it", info)
}

func (a *api) batch(ctx context.Context) {
	for _, parallel := range []bool{false, true} {
		replies, err := a.node().Batch(ctx, &apiproto.BatchRequest{Parallel: parallel, Commands: []*apiproto.Command{
			{Publish: &apiproto.PublishRequest{Channel: "many", Data: []byte(`1`)}},
			{PresenceStats: &apiproto.PresenceStatsRequest{Channel: "many"}},
			{Publish: &apiproto.PublishRequest{Channel: "no:such", Data: []byte(`1`)}},
			{},
		}})
		check(err == nil && len(replies.Replies) == 4, "batch", replies, err)
		it := replies.Replies
		check(it[0].Publish.GetOffset() > 0 && it[1].PresenceStats != nil, "what is done of it", it)
		check(it[2].Error.GetCode() == 102 && it[2].Publish == nil, "what fails of it", it)
	}
}

// What is done to a client: into a room, seen there, out of it, and closed.
func (a *api) connections(ctx context.Context, client string) {
	subscribed, err := a.node().Subscribe(ctx, &apiproto.SubscribeRequest{
		Client: client, Channel: "hall", Info: []byte(`{"role":"x"}`), Data: []byte(`{"hi":1}`),
	})
	check(err == nil && subscribed.Error == nil, "subscribe", subscribed, err)
	var there *apiproto.PresenceResponse
	for i := 0; i < 100 && len(there.GetResult().GetPresence()) == 0; i++ {
		time.Sleep(50 * time.Millisecond)
		there, err = a.node().Presence(ctx, &apiproto.PresenceRequest{Channel: "hall"})
		check(err == nil && there.Error == nil, "presence", there, err)
	}
	info := there.Result.Presence[client]
	check(info.GetClient() == client && string(info.GetChanInfo()) == `{"role":"x"}`, "who is there", there)
	stats, err := a.node().PresenceStats(ctx, &apiproto.PresenceStatsRequest{Channel: "hall"})
	check(err == nil && stats.Result.NumClients == 1, "presence_stats", stats, err)
	channels, err := a.node().Channels(ctx, &apiproto.ChannelsRequest{Pattern: "ha*"})
	check(err == nil && channels.Result.Channels["hall"].GetNumClients() == 1, "channels", channels, err)
	refreshed, err := a.node().Refresh(ctx, &apiproto.RefreshRequest{
		Client: client, ExpireAt: time.Now().Unix() + 600,
	})
	check(err == nil && refreshed.Error == nil, "refresh", refreshed, err)
	out, err := a.node().Unsubscribe(ctx, &apiproto.UnsubscribeRequest{Client: client, Channel: "hall"})
	check(err == nil && out.Error == nil, "unsubscribe", out, err)
	closed, err := a.node().Disconnect(ctx, &apiproto.DisconnectRequest{
		Client: client, Disconnect: &apiproto.Disconnect{Code: 4501, Reason: "by gRPC"},
	})
	check(err == nil && closed.Error == nil, "disconnect", closed, err)
}

// Errors are in the answer, or a status of gRPC where that is asked for.
func (a *api) errors(ctx context.Context, key string) {
	transport := with("authorization", "apikey "+key, "x-centrifugo-error-mode", "transport")
	position := &apiproto.StreamPosition{Offset: 0, Epoch: "no"}
	for _, it := range []struct {
		code   uint32
		status codes.Code
		call   func(context.Context) (*apiproto.Error, error)
	}{
		{107, codes.InvalidArgument, func(ctx context.Context) (*apiproto.Error, error) {
			it, err := a.node().Publish(ctx, &apiproto.PublishRequest{Data: []byte(`{}`)})
			return it.GetError(), err
		}},
		{107, codes.InvalidArgument, func(ctx context.Context) (*apiproto.Error, error) {
			it, err := a.node().Publish(ctx, &apiproto.PublishRequest{Channel: "tree", B64Data: "?"})
			return it.GetError(), err
		}},
		{102, codes.NotFound, func(ctx context.Context) (*apiproto.Error, error) {
			it, err := a.node().Publish(ctx, &apiproto.PublishRequest{Channel: "no:such", Data: []byte(`1`)})
			return it.GetError(), err
		}},
		{108, codes.InvalidArgument, func(ctx context.Context) (*apiproto.Error, error) {
			it, err := a.node().History(ctx, &apiproto.HistoryRequest{Channel: "plain:x", Limit: 1})
			return it.GetError(), err
		}},
		{112, codes.OutOfRange, func(ctx context.Context) (*apiproto.Error, error) {
			it, err := a.node().History(ctx, &apiproto.HistoryRequest{Channel: "many", Limit: 1, Since: position})
			return it.GetError(), err
		}},
		{104, codes.NotFound, func(ctx context.Context) (*apiproto.Error, error) {
			it, err := a.node().RPC(ctx, &apiproto.RPCRequest{Method: "none"})
			return it.GetError(), err
		}},
	} {
		said, err := it.call(ctx)
		check(err == nil && said.GetCode() == it.code, fmt.Sprint("error ", it.code), said, err)
		_, err = it.call(transport)
		told := status.Convert(err)
		check(told.Code() == it.status, fmt.Sprint("status of ", it.code), err)
		detail, ok := told.Details()[0].(*apiproto.Error)
		check(ok && detail.Code == it.code && detail.Message != "", "its details", told.Details())
	}
}

// What is no call at all.
func refusals(ctx context.Context, conn *grpc.ClientConn) {
	client := apiproto.NewCentrifugoApiClient(conn)
	for _, ctx := range []context.Context{
		with(), with("authorization", "apikey wrong"), with("authorization", ""), with("authorization", "apikey"),
	} {
		_, err := client.Info(ctx, &apiproto.InfoRequest{})
		check(status.Code(err) == codes.Unauthenticated, "a wrong key", err)
	}
	err := conn.Invoke(ctx, "/centrifugal.centrifugo.api.CentrifugoApi/Nothing", &apiproto.InfoRequest{}, &apiproto.InfoResponse{})
	check(status.Code(err) == codes.Unimplemented, "an unknown method", err)
	large := &apiproto.PublishRequest{Channel: "tree", Data: make([]byte, 4<<20+1)}
	_, err = client.Publish(ctx, large)
	check(status.Code(err) == codes.ResourceExhausted, "a message that is too large", err)
	_, err = client.Info(ctx, &apiproto.InfoRequest{})
	check(err == nil, "the connection is as well as before", err)
}
