from __future__ import annotations

import asyncio
import errno
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reedbed_cluster.dictstore import START, DictStore

from reedbed.cli import progress
from reedbed.cli.copying import AT_ONCE, BYTES_AT_ONCE, Copier, Report, described, verb
from reedbed.cli.localtree import Skip
from reedbed.cli.locations import Filters, Local, Remote, unsafe
from reedbed.cli.plans import Copy, Remove, Step, plan_sync
from reedbed.cli.progress import Meter
from reedbed.common.errors import DataLoss, DiskFull, NotFound, Unavailable
from reedbed.common.limits import MIB

KEYS = st.text(alphabet="ab!/", min_size=1, max_size=5)


async def steps_of(*steps: Step) -> AsyncIterator[Step]:
    for step in steps:
        yield step


def copier(store: DictStore, *, dry_run: bool = False, move: bool = False, as_json: bool = False) -> Copier:
    return Copier(store, Meter("cp", show=False), dry_run=dry_run, quiet=False, move=move, as_json=as_json)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)


def remote_copy(name: str, size: int = 1) -> Copy:
    return Copy(Remote("data", name), Remote("other", name), size, START)


async def test_a_tree_goes_up_and_comes_down(store: DictStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    up = Copy(Local(source), Remote("data", "a/b"), 5, START)
    report = await copier(store).run(steps_of(up))
    assert store.data("data", "a/b") == b"hello"
    down = Copy(Remote("data", "a/b"), Local(tmp_path / "new" / "deep" / "b"), 5, START)
    await copier(store).run(steps_of(down))
    assert (tmp_path / "new" / "deep" / "b").read_bytes() == b"hello"
    assert (report.copied, report.bytes, report.exit_code) == (1, 5, 0)


@given(st.dictionaries(KEYS, st.tuples(st.integers(0, 2), st.integers(0, 10**15)), max_size=10))
@settings(max_examples=60, deadline=None)
def test_what_a_sync_brought_down_the_next_one_leaves_alone(objects: dict[str, tuple[int, int]]) -> None:
    store = DictStore()
    for name, (size, age) in objects.items():
        store.add("data", name, bytes(size), START + timedelta(microseconds=age))

    async def sync(folder: Path) -> list[Step]:
        plan = plan_sync(store, Remote("data", ""), Local(folder), Filters(), follow=True, delete=True, size_only=False)
        steps = [step async for step in plan]
        await copier(store).run(steps_of(*steps))
        return steps

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(sync(folder))
        shadowed = {k for k in objects if any(k.startswith(o + "/") for o in objects if unsafe(o) is None)}
        wanted = {k: store.data("data", k) for k in objects if unsafe(k) is None and k not in shadowed}
        assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == wanted
        assert all(isinstance(step, Skip) for step in asyncio.run(sync(folder)))


async def test_one_failure_does_not_stop_the_others(store: DictStore, tmp_path: Path) -> None:
    for name in "abc":
        store.add("data", name, b"1")
    store.broken["b"] = DataLoss("too few shards")
    (tmp_path / "file").write_bytes(b"")
    missing = Copy(Local(tmp_path / "gone"), Remote("data", "x"), 0, START)
    blocked = Copy(Remote("data", "a"), Local(tmp_path / "file" / "below"), 1, START)
    report = await copier(store).run(
        steps_of(remote_copy("a"), remote_copy("b"), missing, blocked, remote_copy("c"), Skip("x", "because", "x"))
    )
    assert store.keys("other") == ["a", "c"]
    assert (report.copied, len(report.failed), report.exit_code, report.fatal) == (2, 3, 1, None)
    assert report.skipped == [("x", "because")]
    assert dict(report.failed)["copy: reedbed://data/b to reedbed://other/b"] == "too few shards"
    assert os.strerror(errno.ENOENT) in dict(report.failed)[described(missing)]


async def test_an_unreachable_cluster_stops_all(store: DictStore) -> None:
    store.broken["a"] = Unavailable("nobody answers")
    planned = 0

    async def plan() -> AsyncIterator[Step]:
        nonlocal planned
        for number in range(100_000):
            planned += 1
            yield remote_copy("a" if number == 0 else f"k{number}")

    for number in range(1, 1000):
        store.add("data", f"k{number}", b"1")
    report = await copier(store).run(plan())
    assert planned < 1000
    assert report.fatal is store.broken["a"]
    assert report.exit_code == Unavailable.exit_code


async def test_the_error_of_a_sole_step_is_the_commands(store: DictStore) -> None:
    store.add("data", "a", b"1")
    store.broken["a"] = DataLoss("gone")
    work = Copier(store, Meter("cp", show=False), dry_run=False, quiet=False, move=False, sole=True)
    report = await work.run(steps_of(remote_copy("a")))
    assert (report.fatal, report.exit_code) == (store.broken["a"], DataLoss.exit_code)


async def test_a_plan_that_fails_raises_its_own_error(store: DictStore) -> None:
    store.add("data", "a", b"1")

    async def plan() -> AsyncIterator[Step]:
        yield remote_copy("a")
        raise NotFound("no bucket")

    with pytest.raises(NotFound):
        await copier(store).run(plan())


async def test_no_more_is_under_way_than_the_budget_allows(store: DictStore) -> None:
    for size, most in (
        (1, AT_ONCE),
        (BYTES_AT_ONCE * 10, 1),
        (4 * MIB, BYTES_AT_ONCE // 4 // MIB),
    ):
        store.most_under_way = 0
        steps = []
        for number in range(200):
            store.add("data", f"k{number}", b"1")
            steps.append(remote_copy(f"k{number}", size))
        report = await copier(store).run(steps_of(*steps))
        assert report.copied == 200
        assert most // 2 < store.most_under_way <= most


async def test_moving_deletes_only_what_was_copied(store: DictStore, tmp_path: Path) -> None:
    for name in "ab":
        store.add("data", name, b"1")
    store.broken["a"] = DiskFull("full")
    (tmp_path / "file").write_bytes(b"x")
    up = Copy(Local(tmp_path / "file"), Remote("other", "file"), 1, START)
    steps = [replace(remote_copy(name), version=(await store.stat("data", name)).version) for name in "ab"]
    await copier(store, move=True).run(steps_of(*steps, up))
    assert store.keys("data") == ["a"]
    assert store.keys("other") == ["b", "file"]
    assert not (tmp_path / "file").exists()


async def test_what_comes_in_its_place_during_a_move_stays(store: DictStore, tmp_path: Path) -> None:
    """Each of the three ways: the source is replaced while its old bytes are on their way."""
    versions = {name: store.add("data", name, b"old").version for name in ("down", "across")}
    (tmp_path / "up").write_bytes(b"old")
    steps = [
        Copy(Local(tmp_path / "up"), Remote("other", "up"), 3, START),
        Copy(Remote("data", "down"), Local(tmp_path / "down"), 3, START, versions["down"]),
        Copy(Remote("data", "across"), Remote("other", "across"), 3, START, versions["across"]),
    ]
    store.gate = asyncio.Event()
    held = store.gate
    moving = asyncio.create_task(copier(store, move=True).run(steps_of(*steps)))
    await until(lambda: store.under_way == 3)
    store.gate = None
    store.add("data", "across", b"newer")
    (tmp_path / "up").write_bytes(b"newer")
    held.set()
    report = await moving
    assert (tmp_path / "up").read_bytes() == b"newer"
    assert store.data("data", "across") == b"newer"
    assert {what for what, _ in report.failed} == {described(steps[0]), described(steps[2])}
    assert not (tmp_path / "none").exists()

    store.add("data", "down", b"newer")
    late = Copy(Remote("data", "down"), Local(tmp_path / "down"), 5, START, "")
    transfer = store.delete

    async def replaced_just_before(bucket: str, key: str, *, if_match: str | None = None) -> bool:
        store.add("data", "down", b"newest")
        return await transfer(bucket, key, if_match=if_match)

    store.delete = replaced_just_before  # type: ignore[method-assign]
    report = await copier(store, move=True).run(steps_of(late))
    assert (tmp_path / "down").read_bytes() == b"newer"
    assert store.data("data", "down") == b"newest"
    assert report.exit_code == 1


async def test_removals(store: DictStore, tmp_path: Path) -> None:
    store.add("data", "a", b"1")
    (tmp_path / "file").write_bytes(b"")
    report = await copier(store).run(
        steps_of(Remove(Remote("data", "a")), Remove(Local(tmp_path / "file")), Remove(Local(tmp_path / "none")))
    )
    assert (report.deleted, report.exit_code) == (3, 0)
    assert not store.keys("data")
    assert not (tmp_path / "file").exists()


async def test_a_dry_run_does_nothing_and_escapes_what_it_prints(
    store: DictStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add("data", "a\n\x1b[2J", b"1")
    await copier(store, dry_run=True).run(steps_of(remote_copy("a\n\x1b[2J"), Remove(Remote("data", "b"))))
    assert store.keys("data") == ["a\n\x1b[2J"]
    assert capsys.readouterr().out.splitlines() == [
        r"(dryrun) copy: reedbed://data/a\n\x1b[2J to reedbed://other/a\n\x1b[2J",
        "(dryrun) delete: reedbed://data/b",
    ]
    await copier(store, dry_run=True, as_json=True).run(steps_of(remote_copy("a\n")))
    assert json.loads(capsys.readouterr().out) == {
        "dryrun": "copy",
        "source": "reedbed://data/a\n",
        "bytes": 1,
        "target": "reedbed://other/a\n",
    }


async def test_a_reader_that_is_gone_ends_it_with_its_own_error(
    store: DictStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(lines: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(progress, "say_lines", gone)
    work = copier(store)
    store.add("data", "a", b"1")
    with pytest.raises(BrokenPipeError):
        await work.run(steps_of(remote_copy("a")))


async def test_cancelling_leaves_no_work_behind(store: DictStore) -> None:
    store.gate = asyncio.Event()
    store.add("data", "a", b"1")
    running = asyncio.create_task(copier(store).run(steps_of(remote_copy("a"))))
    await store.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert store.under_way == 0
    assert not store.keys("other")


def test_verbs() -> None:
    here, there = Local(Path("a")), Remote("data", "a")
    assert verb(Copy(here, there, 0, START)) == "upload"
    assert verb(Copy(there, here, 0, START)) == "download"
    assert verb(Copy(there, there, 0, START)) == "copy"
    assert verb(Remove(there)) == "delete"


def test_exit_codes_of_reports() -> None:
    assert Report().exit_code == 0
    assert Report(skipped=[("a", "b")]).exit_code == 1
    assert Report(failed=[("a", "b")]).exit_code == 1
    assert Report(failed=[("a", "b")], fatal=Unavailable("x")).exit_code == 7
