"""A server's end against a client that no client of ours is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reedbed.common.checksums import Buffer
from reedbed.common.errors import Unavailable
from reedbed.common.limits import HEADER_MAX, MIB
from reedbed.transport import ends, frames
from reedbed.transport.ends import ServerEnd
from reedbed.transport.frames import Frame, encode


class Deaf:
    """Sends such requests for ever, and takes nothing."""

    def __init__(self, method: str, header: bytes, count: int) -> None:
        self.method, self.header, self.count = method, header, count
        self.messages = 0

    async def read(self) -> bytes | None:
        await asyncio.sleep(0)
        self.messages += 1
        if self.messages == 1:
            return b"".join(encode([Frame(frames.OPEN, payload_length=MIB)]))
        calls = range(self.messages * self.count, (self.messages + 1) * self.count)
        return b"".join(encode([Frame(frames.REQUEST, call, self.method, self.header) for call in calls]))

    async def write(self, parts: list[Buffer]) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("wire", [Deaf("none", b"", 100), Deaf("echo", bytes(HEADER_MAX), 1)], ids=["errors", "heads"])
async def test_a_client_that_takes_no_answers_is_not_read_and_then_left(
    service: Any, monkeypatch: pytest.MonkeyPatch, wire: Deaf
) -> None:
    monkeypatch.setattr(ends, "STALLED_S", 0.2)
    service.limit(max_calls=200)
    with pytest.raises(Unavailable, match="takes no answers"):
        async with asyncio.timeout(20):
            await ServerEnd(wire, service).run()
    assert wire.messages < 20
