"""Many clients of the official Python SDK in one process, driven by JSON lines.

The vocabulary is the one of ../js/driver.mjs: {"id", "cmd", ...} on stdin,
{"re", "ok" | "error"} and {"ev", ...} on stdout. Data is JSON text on the wire
in both formats.
"""

import asyncio
import json
import sys

from centrifuge import Client as Sdk
from centrifuge import ClientEventHandler, DeltaType, FilterNode, StreamPosition, SubscriptionEventHandler

CLIENTS = {}


def say(**fields):
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def info_of(client, info):
    if info is None:
        return None
    return {
        "client": info.client,
        "user": info.user,
        "connInfo": client.decode(info.conn_info),
        "chanInfo": client.decode(info.chan_info),
    }


class Room(SubscriptionEventHandler):
    """Reports what happens to one subscription."""

    def __init__(self, client, room):
        self.client, self.room = client, room
        self.consumes, self.tasks = False, set()
        self.settled = None

    def tell(self, ev, **fields):
        say(ev=ev, client=self.client.name, room=self.room, **fields)

    def settle(self, value, error=None):
        if self.settled and not self.settled.done():
            if error:
                self.settled.set_exception(error)
            else:
                self.settled.set_result(value)

    async def on_subscribing(self, ctx):
        self.tell("subscribing", code=ctx.code, reason=ctx.reason)

    async def on_subscribed(self, ctx):
        position = {
            "wasRecovering": ctx.was_recovering,
            "recovered": ctx.recovered,
            "recoverable": ctx.recoverable,
            "positioned": ctx.positioned,
            "offset": ctx.stream_position.offset if ctx.stream_position else 0,
            "epoch": ctx.stream_position.epoch if ctx.stream_position else "",
        }
        self.tell("subscribed", **position)
        self.settle(position)

    async def on_unsubscribed(self, ctx):
        self.tell("unsubscribed", code=ctx.code, reason=ctx.reason)
        self.settle(None, Refused(ctx.code, ctx.reason))

    async def on_publication(self, ctx):
        self.tell("pub", **self.client.publication(ctx.pub))
        if self.consumes:
            # Not here: this SDK reads nothing more until a handler is done.
            task = asyncio.create_task(self.acknowledge(ctx.pub.tags))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def acknowledge(self, tags):
        message = tags["roomcast-message"]
        ack = {"channel": self.room, "deliveries": [tags["roomcast-delivery"]]}
        try:
            answer = await self.client.sdk.rpc("queue.ack", self.client.encode(ack))
            result = self.client.decode(answer.data)["results"][0]
            self.tell("settled", message=message, result=result)
        except Exception as e:
            self.tell("unsettled", message=message, code=getattr(e, "code", 0))

    async def on_join(self, ctx):
        self.tell("join", info=info_of(self.client, ctx.info))

    async def on_leave(self, ctx):
        self.tell("leave", info=info_of(self.client, ctx.info))

    async def on_error(self, ctx):
        self.tell("error", code=ctx.code, message=repr(ctx.error))


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Client(ClientEventHandler):
    """One SDK client and the way its connections take."""

    def __init__(self, request):
        self.name = request["client"]
        self.binary = request.get("format") == "protobuf"
        self.settled = asyncio.get_running_loop().create_future()
        self.sdk = Sdk(
            request["url"],
            events=self,
            use_protobuf=self.binary,
            token=request.get("options", {}).get("token", ""),
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.5,
        )

    def encode(self, data):
        return json.dumps(data).encode() if self.binary else data

    def decode(self, data):
        if isinstance(data, bytes):
            return json.loads(data) if data else None
        return data

    def publication(self, pub):
        return {
            "offset": pub.offset,
            "data": self.decode(pub.data),
            "info": info_of(self, pub.info),
            "tags": dict(pub.tags or {}),
        }

    def settle(self, value, error=None):
        if not self.settled.done():
            if error:
                self.settled.set_exception(error)
            else:
                self.settled.set_result(value)

    async def on_connecting(self, ctx):
        say(ev="state", client=self.name, state="connecting", code=ctx.code, reason=ctx.reason)

    async def on_connected(self, ctx):
        say(ev="state", client=self.name, state="connected", id=ctx.client)
        self.settle({"id": ctx.client})

    async def on_disconnected(self, ctx):
        # This SDK says "disconnected" for every lost connection; only a final
        # one is what the vocabulary means by the word.
        final = self.sdk.state.value == "disconnected"
        state = "disconnected" if final else "connecting"
        say(ev="state", client=self.name, state=state, code=ctx.code, reason=ctx.reason)
        if final:
            self.settle(None, Refused(ctx.code, ctx.reason))

    async def on_error(self, ctx):
        say(ev="error", client=self.name, code=ctx.code, message=repr(ctx.error))

    def cut(self):
        """Kills the TCP connection without a WebSocket goodbye."""
        if self.sdk._conn is not None:
            self.sdk._conn.transport.abort()

    async def connect(self, _):
        await self.sdk.connect()
        return await self.settled

    async def subscribe(self, request):
        options = request.get("options", {})
        sub = self.sdk.get_subscription(request["room"])
        if sub is None:
            sub = self.sdk.new_subscription(
                request["room"],
                events=Room(self, request["room"]),
                min_resubscribe_delay=0.05,
                token=options.get("token", ""),
                positioned=options.get("positioned", False),
                recoverable=options.get("recoverable", False),
                join_leave=options.get("joinLeave", False),
                delta=DeltaType(options["delta"]) if "delta" in options else None,
                tags_filter=FilterNode(options["tagsFilter"]) if "tagsFilter" in options else None,
            )
        sub.events.settled = asyncio.get_running_loop().create_future()
        await sub.subscribe()
        return await sub.events.settled

    async def consume(self, request):
        """Consumes a group of the room: acknowledges each message, and says what came of that."""
        room = Room(self, request["room"])
        room.consumes = True
        data = {"group": request["group"], "prefetch": request["prefetch"]}
        sub = self.sdk.new_subscription(
            request["room"], events=room, min_resubscribe_delay=0.05, data=self.encode(data)
        )
        room.settled = asyncio.get_running_loop().create_future()
        await sub.subscribe()
        return await room.settled

    async def unsubscribe(self, request):
        await self.sdk.get_subscription(request["room"]).unsubscribe()

    async def publish(self, request):
        await self.sdk.publish(request["room"], self.encode(request["data"]))

    async def publish_many(self, request):
        refused = []

        async def one(seq):
            data = {"from": request["prefix"], "seq": seq}
            if request.get("padding"):
                data["pad"] = "x" * request["padding"]
            try:
                await self.sdk.publish(request["room"], self.encode(data))
            except Exception as e:
                refused.append({"seq": seq, "code": getattr(e, "code", 0)})

        numbers = range(1, request["count"] + 1)
        if request.get("pipelined"):
            await asyncio.gather(*[one(seq) for seq in numbers])
        else:
            for seq in numbers:
                await one(seq)
        return {"acked": request["count"] - len(refused), "refused": refused}

    async def history(self, request):
        since = request.get("since")
        page = await self.sdk.history(
            request["room"],
            limit=request.get("limit") or 0,
            since=StreamPosition(offset=since["offset"], epoch=since["epoch"]) if since else None,
            reverse=bool(request.get("reverse")),
        )
        return {
            "offset": page.offset,
            "epoch": page.epoch,
            "publications": [self.publication(p) for p in page.publications],
        }

    async def presence(self, request):
        result = await self.sdk.presence(request["room"])
        return {"clients": {k: info_of(self, v) for k, v in result.clients.items()}}

    async def presence_stats(self, request):
        result = await self.sdk.presence_stats(request["room"])
        return {"clients": result.num_clients, "users": result.num_users}

    async def rpc(self, request):
        result = await self.sdk.rpc(request["method"], self.encode(request.get("data")))
        return {"data": self.decode(result.data)}

    async def drop(self, request):
        if request.get("offline"):
            self.sdk._address = "ws://127.0.0.1:9/"
        self.cut()

    async def move(self, request):
        was_offline = self.sdk._address == "ws://127.0.0.1:9/"
        self.sdk._address = request["url"]
        if not was_offline and request.get("cut", True):
            self.cut()

    async def disconnect(self, _):
        await self.sdk.disconnect()


async def run(request):
    try:
        if request["cmd"] == "connect":
            CLIENTS[request["client"]] = Client(request)
        result = await getattr(CLIENTS[request["client"]], request["cmd"])(request)
        say(re=request["id"], ok=result or {})
    except Exception as e:
        say(re=request["id"], error={"code": getattr(e, "code", 0), "message": repr(e)})


async def main():
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    while line := await reader.readline():
        task = asyncio.create_task(run(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main())
