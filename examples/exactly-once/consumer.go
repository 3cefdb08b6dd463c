// A consumer whose effects take place once: it books the payments of a room, "jobs:pay", on accounts in SQLite.
//
//	go run . ws://127.0.0.1:8000/connection/websocket bank.db
//
// Any number of them may run at a time, in any language, on one database. Another room may follow; it needs another database.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/centrifugal/centrifuge-go"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// "immediate": a transaction that will write waits for its turn when it begins.
	// "full": what is acknowledged must outlive a power cut.
	options = "?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)"

	tables = `
		create table if not exists done (
			message text not null primary key,
			repeats integer not null default 0,
			at text not null default current_timestamp
		) strict;
		create table if not exists account (
			name text not null primary key,
			balance integer not null,
			payments integer not null
		) strict;`
	remember = `
		insert into done (message) values (?)
		on conflict (message) do update set repeats = repeats + 1
		returning repeats`
	book = `
		insert into account values (?, ?, 1)
		on conflict (name) do update set balance = balance + excluded.balance, payments = payments + 1`
)

// create makes the tables, unless they are there. SQLite does not wait while others open the same new file, each to give
// it a log ("wal"), so this does. Connections that are made later find the log, and need nobody to wait for.
func create(db *sql.DB) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := db.Exec(tables)
		var failed *sqlite.Error
		locked := errors.As(err, &failed) && failed.Code()&0xff == sqlite3.SQLITE_BUSY
		if !locked || time.Now().After(deadline) {
			return err
		}
	}
}

// take does everything in one transaction: the effect, and that it has taken place. A message that came before has
// no effect.
func take(db *sql.DB, message string, data []byte) error {
	var payment struct {
		Account *string
		Amount  *int64
	}
	if err := json.Unmarshal(data, &payment); err != nil {
		return err
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var repeats int
	if err := tx.QueryRow(remember, message).Scan(&repeats); err != nil {
		return err
	}
	if repeats == 0 {
		if _, err := tx.Exec(book, payment.Account, payment.Amount); err != nil {
			return err
		}
	}
	return tx.Commit()
}

type consumer struct {
	db      *sql.DB
	client  *centrifuge.Client
	channel string
	stopped context.Context
	answers sync.WaitGroup
}

func (c *consumer) publication(e centrifuge.PublicationEvent) {
	if c.stopped.Err() != nil {
		return // it goes to another consumer
	}
	if err := take(c.db, e.Tags["roomcast-message"], e.Data); err != nil {
		// The database is busy, or the message can't be booked: later, and in the end it is a dead letter.
		log.Printf("%s: %v", e.Tags["roomcast-message"], err)
		c.settle("queue.nack", e.Tags, "1s")
		return
	}
	c.settle("queue.ack", e.Tags, "")
}

// settle says what has become of a message. Whether this is heard or not: a message that is not settled comes again,
// and then has no effect.
func (c *consumer) settle(method string, tags map[string]string, delay string) {
	data, err := json.Marshal(struct {
		Channel    string   `json:"channel"`
		Deliveries []string `json:"deliveries"`
		Delay      string   `json:"delay,omitempty"`
	}{c.channel, []string{tags["roomcast-delivery"]}, delay})
	if err != nil {
		log.Fatal(err)
	}
	// Not here: the SDK reads nothing more until a handler is done.
	c.answers.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		// Nor here: if the connection goes while this is sent, the SDK may never return, whatever the context says.
		go func() {
			defer cancel()
			_, _ = c.client.RPC(ctx, method, data)
		}()
		<-ctx.Done()
	})
}

func run(url, file, channel string) error {
	db, err := sql.Open("sqlite", file+options)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := create(db); err != nil {
		return err
	}
	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	client := centrifuge.NewJsonClient(url, centrifuge.Config{MaxReconnectDelay: 2 * time.Second})
	defer client.Close()
	jobs, err := client.NewSubscription(channel, centrifuge.SubscriptionConfig{
		Data:                []byte(`{"group": "bank", "prefetch": 16}`),
		MaxResubscribeDelay: 2 * time.Second,
	})
	if err != nil {
		return err
	}
	c := &consumer{db: db, client: client, channel: channel, stopped: stopped}
	jobs.OnPublication(c.publication)

	// The SDK connects again by itself. What is final is for whoever has started this process.
	final := make(chan error, 2)
	client.OnDisconnected(func(e centrifuge.DisconnectedEvent) { final <- fmt.Errorf("%s (%d)", e.Reason, e.Code) })
	jobs.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) { final <- fmt.Errorf("%s (%d)", e.Reason, e.Code) })

	if err := jobs.Subscribe(); err != nil {
		return err
	}
	if err := client.Connect(); err != nil {
		log.Print(err) // it tries again
	}
	select {
	case err := <-final:
		return err
	case <-stopped.Done():
		c.answers.Wait()
		return nil
	}
}

func main() {
	args := append(os.Args[1:], "jobs:pay")
	if len(args) != 3 && len(args) != 4 {
		log.Fatal("usage: go run . URL DATABASE [ROOM]")
	}
	if err := run(args[0], args[1], args[2]); err != nil {
		log.Fatal(err)
	}
}
