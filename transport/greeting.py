"""The hello: what a daemon says of itself, and what a client makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Final, NamedTuple

from reedbed.common.errors import InvalidArgument, WrongCluster, WrongProtocol
from reedbed.common.limits import ADDRESS_MAX, PROTOCOL_VERSION
from reedbed.protos import lane_pb2
from reedbed.protos.convert import parse
from reedbed.transport.lane import Hello
from reedbed.transport.sums import check_seal, has_seal, sealed

SOFTWARE: Final = version("reedbed")  # that this side says it is
_STREAMS_MAX: Final = 8  # addresses that are tried


class Offer(NamedTuple):
    """Framed streams that a daemon offers: where (see lane.proto), what lets one in, and gRPC's port."""

    streams: Sequence[str] = ()
    ticket: bytes = b""
    port: int = 0


_NOTHING: Final = Offer()


def hello_bytes(hello: Hello, offer: Offer = _NOTHING) -> bytes:
    """The HelloReply that says so."""
    message = lane_pb2.HelloReply(
        protocol=hello.protocol,
        cluster=hello.cluster,
        epoch=hello.epoch,
        term=hello.term,
        role=hello.role,
        software=hello.software,
        window=hello.window,
        max_calls=hello.max_calls,
        max_payload=hello.max_payload,
        streams=offer.streams,
        ticket=offer.ticket,
        port=offer.port,
    )
    return sealed(message.SerializeToString())


def parse_hello(data: bytes, address: str) -> Hello:
    """The hello in a HelloReply's bytes; WrongProtocol if they are none, Corrupt if they were altered on the way."""
    try:
        if not has_seal(data):
            raise InvalidArgument("no sum")
        check_seal(data)
        message = parse(lane_pb2.HelloReply, data)
    except InvalidArgument:
        raise WrongProtocol(
            "the answer is no hello", where=address, hint="Something else than a Reedbed daemon may listen there"
        ) from None
    return Hello(
        cluster=message.cluster,
        epoch=message.epoch,
        term=message.term,
        role=message.role,
        software=message.software,
        protocol=message.protocol,
        window=message.window,
        max_calls=message.max_calls,
        max_payload=message.max_payload,
    )


def offered(data: bytes) -> Offer:
    """What is offered in a HelloReply that `parse_hello` took."""
    message = parse(lane_pb2.HelloReply, data)
    streams = [where for where in message.streams[:_STREAMS_MAX] if len(where) <= ADDRESS_MAX]
    return Offer(streams, message.ticket, message.port)


def check_hello(hello: Hello, cluster: bytes, address: str) -> Hello:
    """The hello, if we can talk to that daemon; `cluster` empty: any cluster. WrongProtocol or WrongCluster else."""
    if hello.protocol != PROTOCOL_VERSION:
        raise WrongProtocol(
            f"the daemon speaks protocol {hello.protocol}, this side {PROTOCOL_VERSION}",
            where=address,
            hint="Run the same Reedbed on both sides",
        )
    if not hello.window or not hello.max_payload:
        raise WrongProtocol("the daemon grants nothing", where=address, hint="Check that it is a Reedbed daemon")
    if cluster and hello.cluster != cluster:
        raise WrongCluster(
            f"the daemon belongs to cluster {hello.cluster.hex() or 'none'}, not to {cluster.hex()}",
            where=address,
            hint="Check the address, and whether the cluster was made anew",
        )
    return hello
