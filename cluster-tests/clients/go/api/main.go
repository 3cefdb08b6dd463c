// Methods of the server API by gocent, which sends commands one to a line: URLs of nodes, separated by commas,
// and the key are the arguments.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/centrifugal/gocent/v3"
)

var ctx = context.Background()

func main() {
	urls, key := strings.Split(os.Args[1], ","), os.Args[2]
	clients := make([]*gocent.Client, len(urls))
	for i, url := range urls {
		clients[i] = gocent.New(gocent.Config{Addr: url + "/api", Key: key})
	}
	turn := 0
	client := func() *gocent.Client {
		turn++
		return clients[turn%len(clients)]
	}
	if err := calls(client, len(urls)); err != nil {
		fail(err)
	}
	if err := pipe(client); err != nil {
		fail(err)
	}
	wrong := gocent.New(gocent.Config{Addr: urls[0] + "/api", Key: "wrong"})
	var status gocent.ErrStatusCode
	if _, err := wrong.Info(ctx); !errors.As(err, &status) || status.Code != http.StatusUnauthorized {
		fail(fmt.Errorf("a wrong key: %v", err))
	}
	fmt.Println("the API by gocent")
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// Every call by itself.
func calls(client func() *gocent.Client, nodes int) error {
	first, err := client().Publish(ctx, "tree", []byte(`{"n":1}`))
	if err != nil || first.Offset == 0 || first.Epoch == "" {
		return fmt.Errorf("publish: %+v %v", first, err)
	}
	done, err := client().Broadcast(ctx, []string{"tree", "other"}, []byte(`null`))
	if err != nil || done.Responses[0].Result.Offset != first.Offset+1 {
		return fmt.Errorf("broadcast: %+v %v", done, err)
	}
	page, err := client().History(ctx, "tree", gocent.WithLimit(10))
	if err != nil || len(page.Publications) < 2 || page.Epoch != first.Epoch {
		return fmt.Errorf("history: %+v %v", page, err)
	}
	if data := string(page.Publications[len(page.Publications)-1].Data); data != "null" {
		return fmt.Errorf("history: the last is %q", data)
	}
	if there, err := client().Presence(ctx, "tree"); err != nil || len(there.Presence) != 0 {
		return fmt.Errorf("presence: %+v %v", there, err)
	}
	if there, err := client().PresenceStats(ctx, "tree"); err != nil || there.NumClients != 0 {
		return fmt.Errorf("presence stats: %+v %v", there, err)
	}
	if _, err := client().Channels(ctx); err != nil {
		return fmt.Errorf("channels: %v", err)
	}
	if info, err := client().Info(ctx); err != nil || len(info.Nodes) != nodes {
		return fmt.Errorf("info: %+v %v", info, err)
	}
	return errors.Join(
		client().Subscribe(ctx, "tree", "nobody"),
		client().Unsubscribe(ctx, "tree", "nobody"),
		client().Disconnect(ctx, "nobody"),
		client().HistoryRemove(ctx, "tree"),
	)
}

// Several in one request.
func pipe(client func() *gocent.Client) error {
	it := client()
	pipe := it.Pipe()
	err := errors.Join(
		pipe.AddPublish("tree", []byte(`{"n":2}`)),
		pipe.AddPublish("nowhere:x", []byte(`{}`)),
		pipe.AddHistory("tree", gocent.WithLimit(1)),
		pipe.AddDisconnect("nobody", gocent.WithDisconnect(&gocent.Disconnect{Code: 4500, Reason: "x"})),
	)
	if err != nil {
		return err
	}
	replies, err := it.SendPipe(ctx, pipe)
	if err != nil || len(replies) != 4 {
		return fmt.Errorf("pipe: %+v %v", replies, err)
	}
	if replies[1].Error == nil || replies[1].Error.Code != 102 {
		return fmt.Errorf("pipe: an unknown room is answered by %+v", replies[1])
	}
	for _, index := range []int{0, 2, 3} {
		if replies[index].Error != nil || len(replies[index].Result) == 0 {
			return fmt.Errorf("pipe: reply %d is %+v", index, replies[index])
		}
	}
	return nil
}
