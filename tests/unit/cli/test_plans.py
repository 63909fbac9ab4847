from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reedbed_cluster.dictstore import START, DictStore

from reedbed.cli.localtree import Skip
from reedbed.cli.locations import Filters, Local, Location, Remote
from reedbed.cli.plans import Copy, Remove, Step, plan_copy, plan_one, plan_sync
from reedbed.common.errors import InvalidArgument, NotFound

Side = Local | Remote
KEYS = st.text(alphabet="ab!/", min_size=1, max_size=5)
CONTENTS = st.tuples(st.integers(0, 2), st.integers(0, 2))  # size and age of an object
TREES = st.dictionaries(KEYS, CONTENTS, max_size=10)
PATTERNS = st.lists(st.tuples(st.booleans(), st.sampled_from(["a*", "*b", "*/a*"])), max_size=2)


async def copied(store: DictStore, source: Side, target: Side, filters: Filters | None = None) -> list[Step]:
    return [step async for step in plan_copy(store, source, target, filters or Filters(), follow=True)]


async def synced(
    store: DictStore, source: Side, target: Side, *, delete: bool = False, size_only: bool = False, filters: Filters
) -> list[Step]:
    plan = plan_sync(store, source, target, filters, follow=True, delete=delete, size_only=size_only)
    return [step async for step in plan]


def sync_model(
    source: dict[str, tuple[int, int]],
    target: dict[str, tuple[int, int]],
    filters: Filters,
    *,
    delete: bool,
    size_only: bool,
) -> tuple[set[str], set[str]]:
    """Names to copy and names to delete, as a newcomer would say it."""
    copies = set()
    for name, (size, age) in source.items():
        there = target.get(name)
        if filters.match(name) and (there is None or size != there[0] or (age > there[1] and not size_only)):
            copies.add(name)
    return copies, {name for name in target if delete and filters.match(name) and name not in source}


@given(TREES, TREES, PATTERNS, st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_sync_between_prefixes_is_as_the_model_says(
    source: dict[str, tuple[int, int]],
    target: dict[str, tuple[int, int]],
    patterns: list[tuple[bool, str]],
    delete: bool,
    size_only: bool,
) -> None:
    store = DictStore()
    for prefix, side in (("s/", source), ("t/", target)):
        for name, (size, age) in side.items():
            store.add("data", prefix + name, bytes(size), START + timedelta(microseconds=age))
    filters = Filters(patterns)
    steps = asyncio.run(
        synced(store, Remote("data", "s"), Remote("data", "t/"), delete=delete, size_only=size_only, filters=filters)
    )
    copies, removals = sync_model(source, target, filters, delete=delete, size_only=size_only)
    assert {step.source for step in steps if isinstance(step, Copy)} == {Remote("data", "s/" + n) for n in copies}
    assert {step.target for step in steps if isinstance(step, Copy)} == {Remote("data", "t/" + n) for n in copies}
    assert {step.target for step in steps if isinstance(step, Remove)} == {Remote("data", "t/" + n) for n in removals}
    assert len(steps) == len(copies) + len(removals)


async def test_copying_a_tree_takes_its_contents(store: DictStore, tmp_path: Path) -> None:
    for name in ("a", "b/c", "b.d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    steps = await copied(store, Local(tmp_path), Remote("data", "x"))
    assert [step.target for step in steps if isinstance(step, Copy)] == [
        Remote("data", "x/a"),
        Remote("data", "x/b.d"),
        Remote("data", "x/b/c"),
    ]
    assert [step.size for step in steps if isinstance(step, Copy)] == [1, 3, 3]


async def test_downward_what_no_path_can_hold_is_skipped(store: DictStore, tmp_path: Path) -> None:
    good = ["a", "a!", "b/c", "new\nline", "\x1b[2J"]
    bad = ["/x", "../up", "a/under", "b//c", "n\0", "y" * 256, "dir/nonempty/"]
    for key in [*good, *bad]:
        store.add("data", "p/" + key, b"1")
    store.add("data", "p/", b"")
    store.add("data", "p/empty/", b"")
    steps = await copied(store, Remote("data", "p"), Local(tmp_path))
    assert {step.relative for step in steps if isinstance(step, Skip)} == set(bad)
    assert {step.target for step in steps if isinstance(step, Copy)} == {Local(tmp_path / key) for key in good}


async def test_between_buckets_every_key_goes(store: DictStore) -> None:
    keys = ["/x", "../up", "a", "a/under", "b//c", "n\0", "y" * 256, "empty/"]
    for key in keys:
        store.add("data", key, b"")
    steps = await copied(store, Remote("data", ""), Remote("other", ""))
    assert {step.target for step in steps if isinstance(step, Copy)} == {Remote("other", key) for key in keys}


async def test_upward_what_is_no_key_is_skipped(store: DictStore, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"")
    (tmp_path / "fits").write_bytes(b"")
    deep = tmp_path.joinpath(*["d" * 200] * 5)
    deep.mkdir(parents=True)
    (deep / ("x" * 100)).write_bytes(b"")
    steps = await copied(store, Local(tmp_path), Remote("data", ""))
    assert [type(step) for step in steps] == [Skip, Copy, Skip]


async def test_what_filters_leave_out_is_not_skipped_aloud(store: DictStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert [type(step) for step in await copied(store, Local(tmp_path), Remote("data", ""))] == [Skip]
    assert not await copied(store, Local(tmp_path), Remote("data", ""), Filters([(False, "pipe")]))


async def test_a_prefix_that_nothing_lies_below_is_not_found(store: DictStore, tmp_path: Path) -> None:
    store.add("data", "ab", b"")
    with pytest.raises(NotFound):
        await copied(store, Remote("data", "a"), Local(tmp_path))
    assert not await copied(store, Remote("empty", ""), Local(tmp_path))
    with pytest.raises(NotFound):
        await copied(store, Local(tmp_path), Remote("no-such-bucket", ""))


async def test_sync_deletes_nothing_that_a_link_leads_to(store: DictStore, tmp_path: Path) -> None:
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    top.mkdir()
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"")
    (top / "link").symlink_to(elsewhere)
    (top / "mine").write_bytes(b"")
    steps = await synced(store, Remote("data", ""), Local(top), delete=True, filters=Filters())
    assert steps == [Remove(Local(top / "mine"))]


async def test_sync_deletes_nothing_below_a_folder_that_it_could_not_read(store: DictStore, tmp_path: Path) -> None:
    for key in ("gone/x", "gone/y/z", "old"):
        store.add("data", key, b"1")
    names = [f"a{number:03}" for number in range(300)]  # more than are looked up at once
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "gone").mkdir()
    plan = plan_sync(store, Local(tmp_path), Remote("data", ""), Filters(), follow=True, delete=True, size_only=False)
    first = await anext(plan)
    assert isinstance(first, Copy)
    (tmp_path / "gone").rmdir()
    rest = [step async for step in plan]
    assert [type(step) for step in rest] == [Copy] * (len(names) - 1) + [Skip, Remove]
    assert rest[-1] == Remove(Remote("data", "old"))


async def test_a_single_file(store: DictStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12")
    target: Location = Remote("data", "k")
    assert (await plan_one(store, Local(path), target)).size == 2
    os.mkfifo(tmp_path / "pipe")
    for wrong in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InvalidArgument):
            await plan_one(store, Local(wrong), target)
    for missing in (tmp_path / "none", path / "below"):
        with pytest.raises(NotFound):
            await plan_one(store, Local(missing), target)
    with pytest.raises(NotFound):
        await plan_one(store, Remote("data", "none"), Local(path))
