"""The bytes of frames on a framed stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.common.errors import Corrupt, NotFound, ReedbedError
from reedbed.common.limits import PAYLOAD_MAX
from reedbed.transport import frames
from reedbed.transport.frames import Frame
from reedbed.transport.outbox import SMALL
from reedbed.transport.stream_frames import HEAD, Head, encode

U64 = st.integers(0, (1 << 64) - 1)
FRAMES = st.builds(
    Frame,
    kind=st.sampled_from([frames.REQUEST, frames.REPLY, frames.CHUNK, frames.CANCEL]),
    call=U64,
    method=st.text(max_size=20),
    header=st.binary(max_size=200),
    payload=st.lists(st.binary(min_size=1, max_size=50), max_size=3),
    payload_length=U64,
    timeout_ms=st.integers(0, (1 << 32) - 1),
    epoch=U64,
    term=U64,
)


def decoded(data: bytes) -> list[Frame]:
    """The frames, with payloads over 64 KiB put in by hand."""
    view = memoryview(data)
    found = []
    at = 0
    while at < len(data):
        head = Head(view, at)
        frame = head.frame(view, at)
        at += head.small
        if head.piece > SMALL:
            frame.payload = (view[at : at + head.piece],)
            at += head.piece
        frame.payload = [bytes(piece) for piece in frame.payload]
        found.append(frame)
    assert at == len(data)
    return found


def same(one: Frame, other: Frame) -> bool:
    names = ("kind", "call", "method", "header", "payload_length", "timeout_ms", "epoch", "term")
    return all(getattr(one, name) == getattr(other, name) for name in names) and b"".join(one.payload) == b"".join(
        other.payload
    )


@given(st.lists(FRAMES, min_size=1, max_size=5))
def test_frames_come_back_as_they_were(batch: list[Frame]) -> None:
    found = decoded(b"".join(encode(batch)))
    assert len(found) == len(batch)
    assert all(map(same, found, batch))


def test_errors_and_amounts() -> None:
    batch = [
        Frame(frames.ERROR, 3, error=NotFound("what", where="where", hint="hint")),
        Frame(frames.CREDIT, credit=7),
        Frame(frames.OPEN, payload_length=9),
    ]
    error, credit, opened = decoded(b"".join(encode(batch)))
    assert isinstance(error.error, NotFound)
    assert (error.error.what, error.error.where, error.error.hint) == ("what", "where", "hint")
    assert credit.credit == 7
    assert opened.payload_length == 9


@pytest.mark.parametrize("size", [SMALL - 1, SMALL, SMALL + 1, 3 * SMALL])
def test_large_payloads_are_referred_to_and_not_summed(size: int) -> None:
    payload = bytearray(size)
    parts = encode([Frame(frames.CHUNK, 1, payload=[memoryview(payload)]), Frame(frames.CANCEL, 2)])
    assert (size > SMALL) == any(isinstance(part, memoryview) and part.obj is payload for part in parts)
    data = bytearray(b"".join(parts))
    data[HEAD + size // 2] ^= 1
    if size > SMALL:
        assert decoded(bytes(data))[0].payload[0].count(1) == 1  # its blocks have sums of their own
    else:
        with pytest.raises(Corrupt):
            decoded(bytes(data))


@given(st.lists(FRAMES, min_size=1, max_size=3), st.data())
def test_whatever_is_altered_is_noticed(batch: list[Frame], data: st.DataObject) -> None:
    raw = bytearray(b"".join(encode(batch)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded(bytes(raw))
    except ReedbedError:
        return
    except AssertionError:
        raise
    pytest.fail("altered bytes passed")


@pytest.mark.parametrize(
    ("at", "value"),
    [(4, 0), (4, 99), (5, 1), (7, 255), (19, 255), (23, 255)],
    ids=["no kind", "kind", "zero", "name", "header", "piece"],
)
def test_a_head_that_can_be_none_is_refused_before_anything_is_received_for_it(at: int, value: int) -> None:
    raw = bytearray(b"".join(encode([Frame(frames.REQUEST, 1, "m", b"h")])))
    raw[at] = value
    with pytest.raises(Corrupt):
        Head(raw, 0)


def test_the_largest_lengths_fit() -> None:
    head = Head(b"".join(encode([Frame(frames.CHUNK, 1, payload=[memoryview(bytes(PAYLOAD_MAX))])])), 0)
    assert (head.piece, head.small) == (PAYLOAD_MAX, HEAD)
