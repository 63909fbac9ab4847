"""What the caller's own files and iterators may do, and what they cannot do to others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from reedbed.client.store import AsyncStore
from reedbed.client.sync_store import Store
from reedbed.common.errors import InvalidArgument, ReedbedError


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def read(self, size: int = -1) -> bytes:
        raise self.error


def failing() -> Iterator[bytes]:
    yield b"x"
    raise OSError("the disk is gone")


@pytest.mark.parametrize("error", [StopIteration("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_source_that_would_end_the_loop_ends_its_own_put_only(sync_store: Store, error: BaseException) -> None:
    with pytest.raises(ReedbedError, match=type(error).__name__) as caught:
        sync_store.put("data", "k", Raises(error))
    assert caught.value.__cause__ is error
    results = sync_store.put_many("data", {"a": Raises(error), "b": b"x"})
    assert isinstance(results["a"], ReedbedError)
    assert sync_store.get("data", "b") == b"x"
    assert not sync_store.exists("data", "k")


async def test_the_error_of_a_source_is_its_own_in_put_many(store: AsyncStore) -> None:
    async def late() -> Any:
        for _ in range(100):
            await asyncio.sleep(0)
        yield b"late"

    results = await store.put_many("data", {"a": failing(), "b": b"x", "c": late()})
    error = results["a"]
    assert isinstance(error, ReedbedError)
    assert isinstance(error.__cause__, OSError)
    assert await store.get("data", "b") == b"x"
    assert await store.get("data", "c") == b"late"
    assert not await store.exists("data", "a")
    with pytest.raises(OSError, match="the disk is gone"):
        await store.put("data", "a", failing())


async def test_nothing_goes_on_after_put_many_was_refused(store: AsyncStore) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(InvalidArgument, match="comes twice"):
        await store.put_many("data", [("a", failing()), ("b", iter([b"x"])), ("b", b"y")])
    assert await store.get("data", "b") == b"x"
    left = [task for task in asyncio.all_tasks() - before if not task.done()]
    assert not [task for task in left if "put" in repr(task.get_coro())]


async def test_keys_of_delete_many_that_are_no_text(store: AsyncStore) -> None:
    await store.put("data", "k", b"x")
    with pytest.raises(InvalidArgument, match="not text"):
        await store.delete_many("data", ["k", ["a"]])  # type: ignore[list-item]
    assert await store.exists("data", "k")
