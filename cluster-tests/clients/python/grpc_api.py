"""The server API by gRPC, with the code that our own description of it makes: `call ADDRESS KEY` calls it, with many
calls at once; `tls ADDRESS KEY AUTHORITY` does so over TLS; `until_gone ADDRESS KEY` publishes until the node has
left; `key ADDRESS KEY` tries a key; `same OURS THEIRS` compares two descriptions."""

import faulthandler
import os
import pathlib
import sys
import tempfile
import traceback

import grpc
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).parents[3] / "proto"


def generated():
    """The modules that the description makes."""
    folder = tempfile.mkdtemp()
    made = protoc.main(["", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}", "api.proto"])
    assert made == 0, "the description can't be compiled"
    sys.path.insert(0, folder)
    import api_pb2
    import api_pb2_grpc
    return api_pb2, api_pb2_grpc


def call(channel, key):
    messages, services = generated()
    api = services.CentrifugoApiStub(channel)
    metadata = [("authorization", f"apikey {key}")]
    limits = {"metadata": metadata, "timeout": 20}

    def publish(number):
        data = b"%d" % number
        return api.Publish.future(messages.PublishRequest(channel="py", data=data), **limits)

    published = [it.result() for it in [publish(number) for number in range(2000)]]
    assert all(not it.HasField("error") for it in published), published[0]
    offsets = sorted(it.result.offset for it in published)
    assert offsets == list(range(1, 2001)), offsets[:10]
    # No larger than half of what may wait for a client: 600 KB in all is more than a window of HTTP/2.
    padded = [api.Publish.future(messages.PublishRequest(channel="large", data=b"1" * 300_000), **limits)
              for _ in range(20)]
    assert all(it.result().result.offset > 0 for it in padded)
    page = api.History(messages.HistoryRequest(channel="py", limit=-1), **limits)
    assert len(page.result.publications) == 2000 and page.result.offset == 2000, page.result.offset
    assert {it.data for it in page.result.publications} == {b"%d" % number for number in range(2000)}
    # Set and empty: everybody who has no user; and not set: nobody.
    said = api.Disconnect(messages.DisconnectRequest(), **limits)
    assert said.error.code == 107, said
    said = api.Unsubscribe(messages.UnsubscribeRequest(user="", channel="py"), **limits)
    assert not said.HasField("error"), said
    try:
        api.Publish(messages.PublishRequest(channel="py", data=b"1"), metadata=metadata, compression=grpc.Compression.Gzip)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    else:
        raise AssertionError("a compressed request was read")
    print("the API by gRPC in Python")


def until_gone(channel, key):
    """Publishes, one after the other, until the node takes nothing more; says how many were acknowledged."""
    messages, services = generated()
    api, acked = services.CentrifugoApiStub(channel), 0
    while True:
        try:
            said = api.Publish(messages.PublishRequest(channel="leaving", data=b"1"),
                               metadata=[("authorization", f"apikey {key}")], timeout=20)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            print(acked)
            return
        acked += not said.HasField("error")


def key(channel, it):
    """One call with this key."""
    messages, services = generated()
    said = services.CentrifugoApiStub(channel).Info(
        messages.InfoRequest(), metadata=[("authorization", f"apikey {it}")], timeout=20)
    assert len(said.result.nodes) == 1, said


def described(file):
    """The fields of a description's messages, and the methods of its services."""
    with tempfile.NamedTemporaryFile() as out:
        folder = pathlib.Path(file).parent
        assert protoc.main(["", f"-I{folder}", f"--descriptor_set_out={out.name}", str(file)]) == 0, file
        it = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(out.name).read_bytes()).file[0]
    fields = {}

    def note(prefix, message):
        for field in message.field:
            kind = (field.number, field.type, field.label, field.type_name)
            fields[f"{prefix}.{message.name}.{field.name}"] = kind
        for inner in message.nested_type:
            note(f"{prefix}.{message.name}", inner)

    for message in it.message_type:
        note(it.package, message)
    for service in it.service:
        for method in service.method:
            name = f"{it.package}.{service.name}/{method.name}"
            fields[name] = (method.input_type, method.output_type, method.server_streaming)
    return fields


def same(ours, theirs):
    ours, theirs = described(ours), described(theirs)
    assert len(ours) > 5, ours
    for name, kind in ours.items():
        assert theirs.get(name) == kind, (name, kind, theirs.get(name))
    print(f"{len(ours)} fields and methods are the same")


def main(what, *rest):
    if what in ("call", "until_gone", "key"):
        globals()[what](grpc.insecure_channel(rest[0]), rest[1])
    elif what == "tls":
        authority = pathlib.Path(rest[2]).read_bytes()
        call(grpc.secure_channel(rest[0], grpc.ssl_channel_credentials(authority)), rest[1])
    else:
        same(*rest)


# Where many calls have failed, the library's threads may keep the interpreter from its end.
faulthandler.dump_traceback_later(120, exit=True)
code = 0
try:
    main(*sys.argv[1:])
except BaseException:
    traceback.print_exc()
    code = 1
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
