"""What the caller's own files and iterators may do, and what they cannot do to others."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from reedbed.client.many import batches
from reedbed.client.store import AsyncStore
from reedbed.client.sync_store import Store
from reedbed.client.threads import ForeignThreads
from reedbed.common.errors import InvalidArgument, NotFound, ReedbedError
from reedbed.common.limits import MIB


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


async def test_what_comes_before_an_error_of_the_keys_is_given(store: AsyncStore) -> None:
    names = [f"k{number:03}" for number in range(150)]
    await store.put_many("data", {name: name.encode() for name in names})

    def keys() -> Iterator[Any]:
        yield from names
        raise OSError("no more keys")

    async def read(keys: Any, given: list[str]) -> None:
        async for key, _ in store.get_many("data", keys):
            given.append(key)

    given: list[str] = []
    with pytest.raises(OSError, match="no more keys"):
        await read(keys(), given)
    assert given == names
    given = []
    with pytest.raises(InvalidArgument, match="not text"):
        await read([*names, 5, "k000"], given)
    assert given == names


async def test_buffers_of_any_kind_are_counted_before_more_are_drawn() -> None:
    for make in (np.zeros, bytearray, lambda size: memoryview(bytes(size)), lambda size: array("B", bytes(size))):
        drawn = 0

        def items(make: Any = make) -> Iterator[Any]:
            nonlocal drawn
            for number in range(100):
                drawn += 1
                yield [f"k{number}", make(MIB)]

        threads = ForeignThreads()
        async for batch in batches(items(), threads):
            assert drawn == len(batch) == 1
            break
        threads.close()


async def test_delete_many_of_a_missing_bucket(store: AsyncStore) -> None:
    with pytest.raises(NotFound):
        await store.delete_many("none", ["a", "b"])


async def test_keys_of_delete_many_that_are_no_text(store: AsyncStore) -> None:
    await store.put("data", "k", b"x")
    with pytest.raises(InvalidArgument, match="not text"):
        await store.delete_many("data", ["k", ["a"]])  # type: ignore[list-item]
    assert await store.exists("data", "k")


def test_keys_of_delete_many_that_are_none(sync_store: Store) -> None:
    for keys in (5, None):
        with pytest.raises(InvalidArgument):
            sync_store.delete_many("data", keys)  # type: ignore[arg-type]
