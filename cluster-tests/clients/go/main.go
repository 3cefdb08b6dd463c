// Many clients of the official Go SDK in one process, driven by JSON lines. The vocabulary is the one of
// ../js/driver.mjs: {"id", "cmd", ...} on stdin, {"re", "ok" | "error"} and {"ev", ...} on stdout. Data is JSON
// text on the wire in both formats.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

type fields = map[string]any

var (
	output  sync.Mutex
	clients sync.Map
)

func say(it fields) {
	line, err := json.Marshal(it)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(line))
}

type request struct {
	ID        uint64          `json:"id"`
	Cmd       string          `json:"cmd"`
	Client    string          `json:"client"`
	URL       string          `json:"url"`
	Format    string          `json:"format"`
	Room      string          `json:"room"`
	Data      json.RawMessage `json:"data"`
	Count     uint64          `json:"count"`
	Prefix    string          `json:"prefix"`
	Pipelined bool            `json:"pipelined"`
	Limit     int32           `json:"limit"`
	Reverse   bool            `json:"reverse"`
	Offline   bool            `json:"offline"`
	Cut       *bool           `json:"cut"`
	Method    string          `json:"method"`
	Group     string          `json:"group"`
	Prefetch  uint32          `json:"prefetch"`
	Since     *struct {
		Offset uint64 `json:"offset"`
		Epoch  string `json:"epoch"`
	} `json:"since"`
	Options struct {
		Token string `json:"token"`
		Delta string `json:"delta"`
	} `json:"options"`
}

// refused is a final "no" of the server.
type refused struct {
	code   uint32
	reason string
}

func (r refused) Error() string { return r.reason }

// route is the way that a client's connections take: it can be cut, and lead elsewhere.
type route struct {
	sync.Mutex
	address string
	offline bool
	open    []net.Conn
}

func (r *route) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	r.Lock()
	address, offline := r.address, r.offline
	r.Unlock()
	if offline {
		return nil, errors.New("the network is away")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		r.Lock()
		r.open = append(r.open, conn)
		r.Unlock()
	}
	return conn, err
}

func (r *route) cut() {
	r.Lock()
	defer r.Unlock()
	for _, conn := range r.open {
		conn.Close()
	}
	r.open = nil
}

type client struct {
	name  string
	sdk   *centrifuge.Client
	route *route
	// Each is told once how its first connect or latest subscribe went.
	settled chan error
	id      string
	rooms   sync.Map
}

func (c *client) tell(ev string, it fields) {
	it["ev"], it["client"] = ev, c.name
	say(it)
}

func decoded(data []byte) any {
	if len(data) == 0 {
		return nil
	}
	return json.RawMessage(data)
}

func info(it *centrifuge.ClientInfo) any {
	if it == nil {
		return nil
	}
	return fields{
		"client": it.Client, "user": it.User,
		"connInfo": decoded(it.ConnInfo), "chanInfo": decoded(it.ChanInfo),
	}
}

func publication(room string, it centrifuge.Publication) fields {
	return fields{
		"room": room, "offset": it.Offset, "data": decoded(it.Data), "info": info(it.Info), "tags": it.Tags,
	}
}

func position(it *centrifuge.StreamPosition) (uint64, string) {
	if it == nil {
		return 0, ""
	}
	return it.Offset, it.Epoch
}

func settle(to chan error, err error) {
	select {
	case to <- err:
	default:
	}
}

func connect(r request) (*client, error) {
	at, err := url.Parse(r.URL)
	if err != nil {
		return nil, err
	}
	c := &client{name: r.Client, route: &route{address: at.Host}, settled: make(chan error, 1)}
	config := centrifuge.Config{
		Token:             r.Options.Token,
		NetDialContext:    c.route.dial,
		MinReconnectDelay: 50 * time.Millisecond,
		MaxReconnectDelay: 500 * time.Millisecond,
	}
	if r.Format == "protobuf" {
		c.sdk = centrifuge.NewProtobufClient(r.URL, config)
	} else {
		c.sdk = centrifuge.NewJsonClient(r.URL, config)
	}
	c.listen()
	return c, c.sdk.Connect()
}

func (c *client) listen() {
	c.sdk.OnConnecting(func(e centrifuge.ConnectingEvent) {
		c.tell("state", fields{"state": "connecting", "code": e.Code, "reason": e.Reason})
	})
	c.sdk.OnConnected(func(e centrifuge.ConnectedEvent) {
		c.id = e.ClientID
		c.tell("state", fields{"state": "connected", "id": e.ClientID})
		settle(c.settled, nil)
	})
	c.sdk.OnDisconnected(func(e centrifuge.DisconnectedEvent) {
		c.tell("state", fields{"state": "disconnected", "code": e.Code, "reason": e.Reason})
		settle(c.settled, refused{e.Code, e.Reason})
	})
	c.sdk.OnError(func(e centrifuge.ErrorEvent) {
		c.tell("error", fields{"message": e.Error.Error()})
	})
	c.sdk.OnSubscribed(func(e centrifuge.ServerSubscribedEvent) {
		offset, epoch := position(e.StreamPosition)
		c.tell("subscribed", fields{
			"room": e.Channel, "server": true, "wasRecovering": e.WasRecovering, "recovered": e.Recovered,
			"recoverable": e.Recoverable, "positioned": e.Positioned, "offset": offset, "epoch": epoch,
		})
	})
	c.sdk.OnUnsubscribed(func(e centrifuge.ServerUnsubscribedEvent) {
		c.tell("unsubscribed", fields{"room": e.Channel, "server": true})
	})
	c.sdk.OnPublication(func(e centrifuge.ServerPublicationEvent) {
		c.tell("pub", publication(e.Channel, e.Publication))
	})
}

func (c *client) subscription(r request) (*centrifuge.Subscription, chan error, error) {
	if sub, known := c.sdk.GetSubscription(r.Room); known {
		settled, _ := c.rooms.Load(r.Room)
		return sub, settled.(chan error), nil
	}
	sub, err := c.sdk.NewSubscription(r.Room, centrifuge.SubscriptionConfig{
		Token:               r.Options.Token,
		Delta:               centrifuge.DeltaType(r.Options.Delta),
		MinResubscribeDelay: 50 * time.Millisecond,
		Data:                consumed(r),
	})
	if err != nil {
		return nil, nil, err
	}
	settled := make(chan error, 1)
	c.rooms.Store(r.Room, settled)
	sub.OnSubscribing(func(e centrifuge.SubscribingEvent) {
		c.tell("subscribing", fields{"room": r.Room, "code": e.Code, "reason": e.Reason})
	})
	sub.OnSubscribed(func(e centrifuge.SubscribedEvent) {
		offset, epoch := position(e.StreamPosition)
		c.tell("subscribed", fields{
			"room": r.Room, "wasRecovering": e.WasRecovering, "recovered": e.Recovered,
			"recoverable": e.Recoverable, "positioned": e.Positioned, "offset": offset, "epoch": epoch,
		})
		settle(settled, nil)
	})
	sub.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) {
		c.tell("unsubscribed", fields{"room": r.Room, "code": e.Code, "reason": e.Reason})
		settle(settled, refused{e.Code, e.Reason})
	})
	sub.OnError(func(e centrifuge.SubscriptionErrorEvent) {
		c.tell("error", fields{"room": r.Room, "message": e.Error.Error()})
	})
	sub.OnPublication(func(e centrifuge.PublicationEvent) {
		c.tell("pub", publication(r.Room, e.Publication))
		if r.Group != "" {
			// Not here: this SDK reads nothing more until a handler is done.
			go c.acknowledge(r.Room, e.Tags)
		}
	})
	sub.OnJoin(func(e centrifuge.JoinEvent) {
		c.tell("join", fields{"room": r.Room, "info": info(&e.ClientInfo)})
	})
	sub.OnLeave(func(e centrifuge.LeaveEvent) {
		c.tell("leave", fields{"room": r.Room, "info": info(&e.ClientInfo)})
	})
	return sub, settled, nil
}

// consumed is what the subscription of a consumer says: of which group, and how much at a time.
func consumed(r request) []byte {
	if r.Group == "" {
		return nil
	}
	data, err := json.Marshal(fields{"group": r.Group, "prefetch": r.Prefetch})
	if err != nil {
		panic(err)
	}
	return data
}

// acknowledge says that a message of a group is done, and tells what came of that.
func (c *client) acknowledge(room string, tags map[string]string) {
	message := tags["roomcast-message"]
	ack, err := json.Marshal(fields{"channel": room, "deliveries": []string{tags["roomcast-delivery"]}})
	if err != nil {
		panic(err)
	}
	answer, err := within(context.Background(), func(ctx context.Context) (centrifuge.RPCResult, error) {
		return c.sdk.RPC(ctx, "queue.ack", ack)
	})
	var said struct {
		Results []string `json:"results"`
	}
	if err == nil {
		err = json.Unmarshal(answer.Data, &said)
	}
	if err != nil || len(said.Results) == 0 {
		c.tell("unsettled", fields{"room": room, "message": message})
		return
	}
	c.tell("settled", fields{"room": room, "message": message, "result": said.Results[0]})
}

// within ends what the SDK may never return from, whatever the context says: a call whose connection goes while it is
// sent. Otherwise the SDK itself ends it after five seconds.
func within[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	type answer struct {
		it  T
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
	defer cancel()
	answered := make(chan answer, 1)
	go func() {
		it, err := call(ctx)
		answered <- answer{it, err}
	}()
	select {
	case got := <-answered:
		return got.it, got.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func (c *client) publishMany(ctx context.Context, r request) any {
	var lock sync.Mutex
	failed := []fields{}
	one := func(seq uint64) {
		data, _ := json.Marshal(fields{"from": r.Prefix, "seq": seq})
		_, err := within(ctx, func(ctx context.Context) (centrifuge.PublishResult, error) {
			return c.sdk.Publish(ctx, r.Room, data)
		})
		if err != nil {
			lock.Lock()
			defer lock.Unlock()
			failed = append(failed, fields{"seq": seq, "code": code(err)})
		}
	}
	// This SDK keeps no order between goroutines, so each waits for the one before.
	for seq := uint64(1); seq <= r.Count; seq++ {
		one(seq)
	}
	return fields{"acked": r.Count - uint64(len(failed)), "refused": failed}
}

func (c *client) history(ctx context.Context, r request) (any, error) {
	options := []centrifuge.HistoryOption{
		centrifuge.WithHistoryLimit(r.Limit), centrifuge.WithHistoryReverse(r.Reverse),
	}
	if r.Since != nil {
		since := &centrifuge.StreamPosition{Offset: r.Since.Offset, Epoch: r.Since.Epoch}
		options = append(options, centrifuge.WithHistorySince(since))
	}
	page, err := c.sdk.History(ctx, r.Room, options...)
	publications := []fields{}
	for _, it := range page.Publications {
		publications = append(publications, publication(r.Room, it))
	}
	return fields{"offset": page.Offset, "epoch": page.Epoch, "publications": publications}, err
}

func run(r request) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if r.Cmd == "connect" {
		c, err := connect(r)
		if err != nil {
			return nil, err
		}
		clients.Store(r.Client, c)
		if err := <-c.settled; err != nil {
			return nil, err
		}
		return fields{"id": c.id}, nil
	}
	found, ok := clients.Load(r.Client)
	if !ok {
		return nil, fmt.Errorf("no client %s", r.Client)
	}
	c := found.(*client)
	switch r.Cmd {
	case "subscribe", "consume":
		sub, settled, err := c.subscription(r)
		if err != nil {
			return nil, err
		}
		if err := sub.Subscribe(); err != nil {
			return nil, err
		}
		return fields{}, <-settled
	case "unsubscribe":
		sub, _, err := c.subscription(r)
		if err != nil {
			return nil, err
		}
		return fields{}, sub.Unsubscribe()
	case "publish":
		_, err := within(ctx, func(ctx context.Context) (centrifuge.PublishResult, error) {
			return c.sdk.Publish(ctx, r.Room, r.Data)
		})
		return fields{}, err
	case "publish_many":
		return c.publishMany(ctx, r), nil
	case "history":
		return c.history(ctx, r)
	case "presence":
		result, err := c.sdk.Presence(ctx, r.Room)
		all := fields{}
		for id, it := range result.Clients {
			all[id] = info(&it)
		}
		return fields{"clients": all}, err
	case "presence_stats":
		result, err := c.sdk.PresenceStats(ctx, r.Room)
		return fields{"clients": result.NumClients, "users": result.NumUsers}, err
	case "rpc":
		result, err := within(ctx, func(ctx context.Context) (centrifuge.RPCResult, error) {
			return c.sdk.RPC(ctx, r.Method, r.Data)
		})
		return fields{"data": decoded(result.Data)}, err
	case "drop":
		c.route.Lock()
		c.route.offline = r.Offline
		c.route.Unlock()
		c.route.cut()
		return fields{}, nil
	case "move":
		at, err := url.Parse(r.URL)
		if err != nil {
			return nil, err
		}
		c.route.Lock()
		was := c.route.offline
		c.route.address, c.route.offline = at.Host, false
		c.route.Unlock()
		if !was && (r.Cut == nil || *r.Cut) {
			c.route.cut()
		}
		return fields{}, nil
	case "disconnect":
		return fields{}, c.sdk.Disconnect()
	}
	return nil, fmt.Errorf("no command %s", r.Cmd)
}

func code(err error) uint32 {
	var said *centrifuge.Error
	if errors.As(err, &said) {
		return said.Code
	}
	var plain centrifuge.Error
	if errors.As(err, &plain) {
		return plain.Code
	}
	var no refused
	if errors.As(err, &no) {
		return no.code
	}
	return 0
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		go func() {
			result, err := run(r)
			if err != nil {
				say(fields{"re": r.ID, "error": fields{"code": code(err), "message": err.Error()}})
				return
			}
			say(fields{"re": r.ID, "ok": result})
		}()
	}
}
