"""Methods of the server API by `cent` 4, which sends commands one to a line: URLs and key are the arguments.

The URLs of several nodes are separated by commas, and take turns. `cent` 4 is beside the newer one, in `cent4`.
"""

import os
import sys

sys.path.insert(0, os.path.join(sys.prefix, "cent4"))

from cent import Client, RequestException, ResponseError  # noqa: E402


def main(urls, key):
    clients = [Client(url + "/api", api_key=key) for url in urls.split(",")]
    turn = iter(range(10**6))

    def client():
        return clients[next(turn) % len(clients)]

    first = client().publish("leaf", {"n": 1})
    assert first["offset"] >= 1 and first["epoch"], first
    done = client().broadcast(["leaf", "other"], {"n": 2})
    assert done["responses"][0]["result"]["offset"] == first["offset"] + 1, done
    client().publish("leaf", None)
    page = client().history("leaf", limit=10)
    assert [p["data"] for p in page["publications"]][-3:] == [{"n": 1}, {"n": 2}, None], page
    assert client().presence("leaf") == {}
    assert client().presence_stats("leaf")["num_clients"] == 0
    assert client().channels() is not None
    assert len(client().info()["nodes"]) == len(clients)
    client().subscribe("nobody", "leaf")
    client().unsubscribe("nobody", "leaf")
    client().disconnect("nobody")

    several = client()
    several.add("publish", several.get_publish_params("leaf", {"n": 3}))
    several.add("publish", several.get_publish_params("nowhere:x", {}))
    several.add("history", several.get_history_params("leaf", limit=1, reverse=True))
    replies = several.send()
    assert len(replies) == 3 and replies[1]["error"]["code"] == 102, replies
    assert replies[2]["result"]["publications"][0]["data"] == {"n": 3}, replies

    client().history_remove("leaf")
    assert client().history("leaf", limit=10)["publications"] == []
    refused(lambda: client().history("plain:x", limit=1), ResponseError)
    refused(lambda: Client(urls.split(",")[0] + "/api", api_key="wrong").info(), RequestException)
    print("the API by cent 4")


def refused(call, kind):
    try:
        call()
    except kind:
        return
    raise AssertionError("what is to be refused was done")


if __name__ == "__main__":
    main(*sys.argv[1:])
