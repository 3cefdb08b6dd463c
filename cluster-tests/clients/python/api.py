"""Every method of the server API by `cent`, the official client: URL and key are the arguments.

A method each node answers alike; the URLs of several nodes are separated by commas, and take turns.
"""

import sys
import time

import cent
from cent import (
    BatchRequest, BroadcastRequest, ChannelsRequest, Client, DisconnectRequest, HistoryRemoveRequest,
    HistoryRequest, InfoRequest, PresenceRequest, PresenceStatsRequest, PublishRequest, RefreshRequest,
    SubscribeRequest, UnsubscribeRequest,
)


def main(urls, key):
    clients = [Client(url + "/api", key) for url in urls.split(",")]
    turn = iter(range(10**6))

    def client():
        return clients[next(turn) % len(clients)]

    first = client().publish(PublishRequest(channel="book", data={"n": 1}, idempotency_key="k"))
    again = client().publish(PublishRequest(channel="book", data={"n": 1}, idempotency_key="k"))
    assert first.offset >= 1 and (again.offset, again.epoch) == (first.offset, first.epoch), again
    done = client().broadcast(BroadcastRequest(channels=["book", "other"], data={"n": 2}))
    assert done.responses[0].result.offset == first.offset + 1, done
    page = client().history(HistoryRequest(channel="book", limit=10))
    assert [p.data["n"] for p in page.publications][-2:] == [1, 2], page
    assert page.epoch == first.epoch
    assert client().presence(PresenceRequest(channel="book")).presence == {}
    assert client().presence_stats(PresenceStatsRequest(channel="book")).num_clients == 0
    assert client().channels(ChannelsRequest()).channels is not None
    # A node that is slow for once is missing.
    for _ in range(10):
        nodes = client().info(InfoRequest()).nodes
        if len(nodes) == len(clients):
            break
        time.sleep(0.5)
    assert len(nodes) == len(clients), nodes
    client().subscribe(SubscribeRequest(user="nobody", channel="book"))
    client().unsubscribe(UnsubscribeRequest(user="nobody", channel="book"))
    client().refresh(RefreshRequest(user="nobody", expire_at=int(time.time()) + 60))
    client().disconnect(DisconnectRequest(user="nobody"))
    batch = BatchRequest(requests=[
        PublishRequest(channel="book", data={"n": 3}), HistoryRequest(channel="book", limit=1),
    ], parallel=True)
    replies = client().batch(batch).replies
    assert len(replies) == 2 and replies[0].offset == first.offset + 2, replies
    client().history_remove(HistoryRemoveRequest(channel="book"))
    assert client().history(HistoryRequest(channel="book", limit=10)).publications == []
    try:
        client().history(HistoryRequest(channel="plain:x", limit=1))
    except cent.CentApiResponseError as error:
        assert error.code == 108, error
    else:
        raise AssertionError("a room without history was read")
    try:
        Client(urls.split(",")[0] + "/api", "wrong").info(InfoRequest())
    except cent.CentUnauthorizedError:
        pass
    else:
        raise AssertionError("a wrong key was accepted")
    print("all of the API by cent")


main(*sys.argv[1:])
