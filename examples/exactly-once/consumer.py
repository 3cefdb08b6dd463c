"""A consumer whose effects take place once: it books the payments of a room, "jobs:pay", on accounts in SQLite.

    pip install -r requirements.txt
    python consumer.py ws://127.0.0.1:8000/connection/websocket bank.db

Any number of them may run at a time, in any language, on one database. Another room may follow; it needs another database.
"""

import asyncio
import signal
import sqlite3
import sys
import time
from contextlib import closing

from centrifuge import CentrifugeError, Client, ClientEventHandler, ClientState, SubscriptionEventHandler

CHANNEL = "jobs:pay"


def open_database(file):
    # "IMMEDIATE": a transaction that will write waits for its turn when it begins.
    db = sqlite3.connect(file, timeout=10, isolation_level="IMMEDIATE")
    deadline = time.monotonic() + 10
    while True:
        try:
            create(db)
            return db
        except sqlite3.OperationalError as error:
            # SQLite does not wait while others open the same new file, each to give it a log ("wal"), so this does.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def create(db):
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")  # what is acknowledged must outlive a power cut
    db.executescript("""
        create table if not exists done (
            message text not null primary key,
            repeats integer not null default 0,
            at text not null default current_timestamp
        ) strict;
        create table if not exists account (
            name text not null primary key,
            balance integer not null,
            payments integer not null
        ) strict;
    """)


def take(db, message, payment):
    """One transaction: the effect, and that it has taken place. A message that came before has no effect."""
    with db:
        [(repeats,)] = db.execute(
            "insert into done (message) values (?)"
            " on conflict (message) do update set repeats = repeats + 1 returning repeats",
            [message],
        ).fetchall()
        if repeats == 0:
            db.execute(
                "insert into account values (?, ?, 1) on conflict (name)"
                " do update set balance = balance + excluded.balance, payments = payments + 1",
                [payment["account"], payment["amount"]],
            )


class Jobs(SubscriptionEventHandler):
    def __init__(self, client, channel, db, ended):
        self.client, self.channel, self.db, self.ended = client, channel, db, ended
        self.answers = set()

    async def on_publication(self, ctx):
        if self.ended.done():
            return  # it goes to another consumer
        tags = ctx.pub.tags
        try:
            take(self.db, tags["roomcast-message"], ctx.pub.data)
        except (sqlite3.Error, LookupError, TypeError) as error:
            # The database is busy, or the message can't be booked: later, and in the end it is a dead letter.
            print(f"{tags['roomcast-message']}: {error!r}", file=sys.stderr)
            self.settle("queue.nack", tags, delay="1s")
        else:
            self.settle("queue.ack", tags)

    def settle(self, method, tags, **more):
        # In a task of its own: the SDK reads nothing more until a handler is done.
        data = {"channel": self.channel, "deliveries": [tags["roomcast-delivery"]], **more}
        answer = asyncio.create_task(self.say(method, data))
        self.answers.add(answer)
        answer.add_done_callback(self.answers.discard)

    async def say(self, method, data):
        try:
            await self.client.rpc(method, data)
        except CentrifugeError:
            pass  # a message that is not settled comes again, and then has no effect

    async def on_unsubscribed(self, ctx):
        end(self.ended, f"{ctx.reason} ({ctx.code})")


class Connection(ClientEventHandler):
    def __init__(self, ended):
        self.ended = ended
        self.client = None

    async def on_disconnected(self, ctx):
        # The SDK connects again by itself, unless that is final.
        if self.client.state is ClientState.DISCONNECTED:
            end(self.ended, f"{ctx.reason} ({ctx.code})")


def end(ended, why):
    if not ended.done():
        ended.set_result(why)


async def main(url, file, channel=CHANNEL):
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, ended, None)
    with closing(open_database(file)) as db:
        connection = Connection(ended)
        client = connection.client = Client(url, events=connection, max_reconnect_delay=2)
        jobs = Jobs(client, channel, db, ended)
        data = {"group": "bank", "prefetch": 16}
        subscription = client.new_subscription(channel, events=jobs, data=data, max_resubscribe_delay=2)
        await subscription.subscribe()
        await client.connect()
        why = await ended
        await asyncio.gather(*jobs.answers)
        await client.disconnect()
    return why  # what is final is for whoever has started this process


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python consumer.py URL DATABASE [ROOM]")
    sys.exit(asyncio.run(main(*sys.argv[1:])))
