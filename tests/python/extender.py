"""A stranger at Gangway's door: another language, stubs made from the proto at run time.

Usage: extender.py PROTO_DIR ADDRESS CLUSTER UID. Places a gang of two, prints every verdict as one
JSON line, explains, watches, releases, and prints how it ended. Knows nothing of Kubernetes.
"""

import json
import pathlib
import sys
import tempfile

import grpc
import grpc_tools
from google.protobuf.json_format import MessageToDict
from grpc_tools import protoc


def stubs(proto):
    """The modules for the messages and the service."""
    out = tempfile.mkdtemp()
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    words = ["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(words + ["gangway/v1/extender.proto"]) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, out)
    from gangway.v1 import extender_pb2, extender_pb2_grpc

    return extender_pb2, extender_pb2_grpc


def say(what, message):
    """One line for the story."""
    fields = MessageToDict(message, preserving_proto_field_name=True) if message else {}
    print(json.dumps({"what": what, **fields}), flush=True)


def main(proto, address, cluster, uid):
    pb, pb_grpc = stubs(proto)
    channel = grpc.insecure_channel(address)
    extender = pb_grpc.ExtenderStub(channel)

    # The health protocol by hand: an empty request, and field 1 of the answer is 1 for SERVING.
    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    answer = health(b"", timeout=10)
    print(json.dumps({"what": "health", "serving": answer == b"\x08\x01"}), flush=True)

    for name, bad in {
        "nothing": pb.PlaceRequest(),
        "no members": pb.PlaceRequest(gang=pb.Gang(cluster=cluster, uid=uid)),
        "bad cluster": pb.PlaceRequest(gang=pb.Gang(cluster="a b", uid=uid, members=[pb.Member(uid="m")])),
    }.items():
        try:
            list(extender.Place(bad, timeout=10))
            code = "OK"
        except grpc.RpcError as error:
            code = error.code().name
        print(json.dumps({"what": "bad", "name": name, "code": code}), flush=True)

    members = [
        pb.Member(
            uid=f"{uid}-{rank}",
            name=f"member-{rank}",
            rank=rank,
            milli_cpu=1000,
            memory=256 << 20,
            resources={"nvidia.com/gpu": 8, "vpc.amazonaws.com/efa": 32},
        )
        for rank in range(2)
    ]
    gang = pb.Gang(cluster=cluster, uid=uid, namespace="elsewhere", name="stranger", kind="Gang", members=members)
    verdicts = extender.Place(pb.PlaceRequest(gang=gang), timeout=60)
    for verdict in verdicts:
        say(verdict.WhichOneof("verdict"), verdict)
        if verdict.WhichOneof("verdict") == "allocated":
            break

    # The same gang asked for again is the same placeholder.
    again = extender.Place(pb.PlaceRequest(gang=gang), timeout=60)
    say("again", next(v for v in again if v.WhichOneof("verdict") == "allocated"))
    again.cancel()

    say("explain", extender.Explain(pb.ExplainRequest(cluster=cluster, uid=uid), timeout=10))
    watch = extender.Watch(pb.WatchRequest(cluster=cluster), timeout=60)
    for event in watch:
        say("watch", event)
        if event.WhichOneof("event") == "synced":
            break

    release = pb.ReleaseRequest(cluster=cluster, uid=uid, reason="the story is over")
    say("release", extender.Release(release, timeout=10))
    for verdict in verdicts:
        say(verdict.WhichOneof("verdict"), verdict)
    # What it was a moment ago may be told once more.
    for event in watch:
        say("watch", event)
        if event.placeholder.state != "RUNNING":
            break
    say("release again", extender.Release(release, timeout=10))


if __name__ == "__main__":
    main(*sys.argv[1:])
