"""What every engine promises (catalog/engine.py), on every engine of the `rig` fixture."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog.engine import KEY_BYTES_MAX, VALUE_BYTES_MAX, Engine, RedoRecord, Writer
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.sealed import seal
from reedbed.common.errors import Corrupt, InvalidArgument, LogTrimmed, NewerFormat, Unavailable
from reedbed.common.ids import Id

if TYPE_CHECKING:
    from conftest import Rig


class Undone(Exception):
    pass


@contextmanager
def undone() -> Iterator[None]:
    """The body ends in Undone."""
    try:
        yield
    except Undone:
        return
    raise AssertionError("Undone was swallowed")


def rows(engine: Engine) -> dict[bytes, bytes]:
    with engine.read() as r:
        return dict(r.scan(b""))


def all_redo(engine: Engine, after: int = 0) -> list[RedoRecord]:
    found: list[RedoRecord] = []
    while page := engine.read_redo(after, 2):
        found += page
        after = page[-1].number
    return found


def replay(records: list[RedoRecord]) -> dict[bytes, bytes]:
    state: dict[bytes, bytes] = {}
    for record in records:
        for key, value in record.changes:
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
    return state


def test_put_get_delete(engine: Engine) -> None:
    with engine.write() as w:
        assert w.get(b"a") is None
        w.put(b"a", b"1")
        w.put(b"a", b"2")
        w.put(b"empty", b"")
        assert w.get(b"a") == b"2"
        assert w.delete(b"a")
        assert not w.delete(b"a")
        assert w.get(b"a") is None
        w.put(b"b", b"3")
        assert list(w.scan(b"")) == [(b"b", b"3"), (b"empty", b"")]
    assert rows(engine) == {b"b": b"3", b"empty": b""}


def test_scan_is_bytewise_and_half_open(engine: Engine) -> None:
    keys = sorted([b"\0", b"a", b"a\0", b"aa", b"b", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"a" * 600, b"a" * 4096])
    with engine.write() as w:
        for key in reversed(keys):
            w.put(key, key[:5])
    with engine.write() as w, engine.read() as r:
        for reader in (r, w):
            for start in [b"", *keys]:
                for end in [None, *keys]:
                    expected = [k for k in keys if k >= start and (end is None or k < end)]
                    assert [k for k, _ in reader.scan(start, end)] == expected
                    assert [k for k, _ in reader.scan(start, end, reverse=True)] == expected[::-1]


def test_what_a_writer_scans_it_may_delete_on_the_way(engine: Engine) -> None:
    keys = [b"k%03d" % n for n in range(50)] + [b"l" * 500 + b"%03d" % n for n in range(20)]
    for reverse in (False, True):
        with engine.write() as w:
            for key in keys:
                w.put(key, b"")
        with engine.write() as w:
            seen = []
            for key, _ in w.scan(b"", reverse=reverse):
                seen.append(key)
                assert w.delete(key)
                if key in keys and not reverse:
                    w.put(b"m" * 490 + key, b"")  # takes up the node that may just have become free
            later = [] if reverse else [b"m" * 490 + key for key in keys]
            assert seen == (keys[::-1] if reverse else keys) + later
            assert list(w.scan(b"")) == []


def test_wrong_sizes_are_refused_and_change_nothing(engine: Engine) -> None:
    with engine.write() as w:
        w.put(b"k" * KEY_BYTES_MAX, b"longest")
        for bad in (b"", b"k" * (KEY_BYTES_MAX + 1)):
            with pytest.raises(InvalidArgument):
                w.put(bad, b"")
            with pytest.raises(InvalidArgument):
                w.get(bad)
            with pytest.raises(InvalidArgument):
                w.delete(bad)
        with pytest.raises(InvalidArgument):
            w.put(b"v", bytes(VALUE_BYTES_MAX + 1))
    assert rows(engine) == {b"k" * KEY_BYTES_MAX: b"longest"}


def test_the_largest_value_survives(rig: Rig) -> None:
    value = bytes(range(256)) * (VALUE_BYTES_MAX // 256)
    with rig.engine.write() as w:
        w.put(b"v", value)
    engine = rig.reopen()
    assert rows(engine) == {b"v": value}
    assert all_redo(engine) == [RedoRecord(1, [(b"v", value)])]


def test_a_snapshot_does_not_move(engine: Engine) -> None:
    with engine.write() as w:
        w.put(b"a", b"1")
    with engine.read() as r:
        with engine.write() as w:
            w.put(b"a", b"2")
            w.put(b"b", b"2")
            with engine.read() as during:
                assert dict(during.scan(b"")) == {b"a": b"1"}, "uncommitted rows are visible"
        assert r.get(b"a") == b"1"
        assert dict(r.scan(b"")) == {b"a": b"1"}
    assert rows(engine) == {b"a": b"2", b"b": b"2"}


def test_an_abort_leaves_nothing(engine: Engine) -> None:
    with engine.write() as w:
        w.put(b"a", b"1")
    with undone(), engine.write() as w:
        w.put(b"a", b"2")
        w.put(b"x" * 1000, b"2")
        w.delete(b"a")
        raise Undone
    assert rows(engine) == {b"a": b"1"}
    assert engine.redo_position() == 1


def test_a_savepoint_undoes_its_own_part_only(engine: Engine) -> None:
    long = b"k" * 700
    with engine.write() as w:
        w.put(b"a", b"1")
        w.put(b"gone", b"1")
    with engine.write() as w:
        w.put(b"b", b"2")
        with undone(), w.savepoint():
            w.put(b"a", b"x")
            w.put(b"b", b"x")
            w.put(b"c", b"x")
            w.put(long, b"x")
            assert w.delete(b"gone")
            raise Undone
        with w.savepoint():
            w.put(b"d", b"3")
            with undone(), w.savepoint():
                w.put(b"d", b"x")
                raise Undone
        with undone(), w.savepoint():
            with w.savepoint():
                w.put(b"e", b"x")
                w.put(b"d", b"x")
            raise Undone
        assert dict(w.scan(b"")) == {b"a": b"1", b"b": b"2", b"d": b"3", b"gone": b"1"}
    assert rows(engine) == {b"a": b"1", b"b": b"2", b"d": b"3", b"gone": b"1"}
    [record] = engine.read_redo(1, 10)
    assert dict(record.changes) == {b"b": b"2", b"d": b"3"}


def test_a_transaction_without_changes_leaves_no_record(engine: Engine) -> None:
    with engine.write() as w:
        w.delete(b"nothing")
    with engine.write() as w, undone(), w.savepoint():
        w.put(b"a", b"1")
        raise Undone
    assert engine.redo_position() == 0
    assert engine.read_redo(0, 10) == []


def test_redo_is_trimmed_and_goes_on_counting(rig: Rig) -> None:
    for number in range(1, 6):
        with rig.engine.write() as w:
            w.put(b"k", b"%d" % number)
    rig.engine.trim_redo(3)
    rig.engine.trim_redo(2)
    engine = rig.reopen()
    assert [record.number for record in engine.read_redo(3, 10)] == [4, 5]
    with pytest.raises(LogTrimmed):
        engine.read_redo(2, 10)
    engine.trim_redo(5)
    engine = rig.reopen()
    assert engine.redo_position() == 5
    assert engine.read_redo(5, 1) == []
    with engine.write() as w:
        w.put(b"k", b"6")
    assert [record.number for record in engine.read_redo(5, 10)] == [6]
    for after, limit in ((7, 1), (-1, 1), (5, 0)):
        with pytest.raises(InvalidArgument):
            engine.read_redo(after, limit)
    for upto in (7, -1):
        with pytest.raises(InvalidArgument):
            engine.trim_redo(upto)


def test_committed_rows_survive_reopening(rig: Rig) -> None:
    with rig.engine.write() as w:
        w.put(b"a" * 2000, b"1")
        w.put(b"b", b"2")
    before = rows(rig.engine)
    assert rows(rig.reopen()) == before
    assert rig.engine.redo_position() == 1


def test_altered_values_are_found(rig: Rig) -> None:
    with rig.engine.write() as w:
        w.put(b"good", b"value")
        w.put(b"k\n1", b"value")
        w.put(b"k2", b"value")
    rig.spoil(b"k\n1", lambda stored: stored[:-1] + bytes([stored[-1] ^ 1]))
    with rig.engine.read() as r:
        with pytest.raises(Corrupt, match=r"k\\x0a1"):
            r.get(b"k\n1")
        with pytest.raises(Corrupt):
            list(r.scan(b""))
        assert r.get(b"good") == b"value"
    with rig.engine.write() as w, pytest.raises(Corrupt):
        w.get(b"k\n1")
    for change in (lambda s: b"", lambda s: s[:3], lambda s: b"\2" + s[1:], lambda s: seal(b"other", b"value")):
        rig.spoil(b"k2", change)
        with rig.engine.read() as r, pytest.raises(Corrupt):
            r.get(b"k2")


def test_values_of_a_newer_format_are_told_from_damage(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig.engine.write() as w:
        w.put(b"k", b"value")
    with monkeypatch.context() as patch:
        patch.setattr("reedbed.catalog.sealed._VERSION_BYTE", b"\2")
        newer = seal(b"k", b"value")
    rig.spoil(b"k", lambda _: newer)
    with rig.engine.read() as r, pytest.raises(NewerFormat):
        r.get(b"k")


def test_ended_transactions_and_closed_engines_refuse(engine: Engine) -> None:
    with engine.write() as w:
        w.put(b"a", b"1")
        w.put(b"b", b"1")
    with engine.read() as r:
        halfway = r.scan(b"")
        next(halfway)
    with pytest.raises(Unavailable):
        next(halfway)
    for use in (lambda: r.get(b"a"), lambda: w.put(b"a", b"2"), lambda: list(w.scan(b""))):
        with pytest.raises(Unavailable):
            use()
    engine.close()
    engine.close()
    with pytest.raises(Unavailable), engine.read():
        pass
    with pytest.raises(Unavailable), engine.write():
        pass
    for call in (engine.redo_position, lambda: engine.read_redo(0, 1), lambda: engine.trim_redo(0)):
        with pytest.raises(Unavailable):
            call()


def test_nobody_sees_an_entry_appear_below_one_that_was_seen(engine: Engine) -> None:
    """Invariant 9, and no lost update, with several writers and readers at once."""
    commits, writers, readers = 40, 3, 3
    total = commits * writers

    def append() -> None:
        for _ in range(commits):
            with engine.write() as w:
                last = next(w.scan(b"log", b"loh", reverse=True), None)
                number = 1 + (int.from_bytes(last[0][3:], "big") if last else 0)
                w.put(b"log" + number.to_bytes(8, "big"), b"")
                w.put(b"count", b"%d" % number)

    def watch() -> None:
        newest = 0
        while newest < total:
            with engine.read() as r:
                numbers = [int.from_bytes(key[3:], "big") for key, _ in r.scan(b"log", b"loh")]
                assert numbers == list(range(1, len(numbers) + 1))
                assert len(numbers) >= newest
                assert r.get(b"count") == (b"%d" % len(numbers) if numbers else None), "half a commit is visible"
            newest = len(numbers)
            assert engine.redo_position() >= newest

    with ThreadPoolExecutor(writers + readers) as pool:
        for done in [pool.submit(work) for work in [append] * writers + [watch] * readers]:
            done.result(60)
    assert engine.redo_position() == total


# Operations of the model test: (what, key, value)
KEYS = [b"\0", b"a", b"b", b"b\0", b"c" * 480, b"c" * 481, b"c" * 482, b"c" * 961, b"d" * 1500, b"\xff" * 500]
operations = st.lists(
    st.tuples(st.sampled_from(["put", "put", "delete"]), st.sampled_from(KEYS), st.binary(max_size=3)), max_size=5
)
parts = st.tuples(st.sampled_from(["plain", "kept", "undone", "marked"]), st.booleans(), operations)
transactions = st.lists(st.tuples(st.booleans(), st.lists(parts, max_size=4)), max_size=8)


@contextmanager
def fresh(kind: str) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:
        engine: Engine = MemoryEngine() if kind == "memory" else LmdbEngine(Path(folder), cluster=Id(b"c" * 16))
        try:
            yield engine
        finally:
            engine.close()


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
@settings(max_examples=60, deadline=None)
@given(history=transactions)
def test_behaves_like_a_dict_and_its_redo_repeats_it(
    kind: str, history: list[tuple[bool, list[tuple[str, bool, list[tuple[str, bytes, bytes]]]]]]
) -> None:
    with fresh(kind) as engine:
        model: dict[bytes, bytes] = {}
        for commits, content in history:
            position = engine.redo_position()
            now = dict(model)
            touched: set[bytes] = set()
            try:
                with engine.write() as w:
                    for how, scans, todo in content:
                        before, before_touched = dict(now), set(touched)
                        try:
                            if how == "marked":
                                mark = w.mark()
                                for step in todo:
                                    _apply(w, now, touched, step)
                                if scans:
                                    assert dict(w.scan(b"", reverse=True)) == now
                                w.undo_to(mark)
                                raise Undone
                            if how == "plain":
                                for step in todo:
                                    _apply(w, now, touched, step)
                            else:
                                with w.savepoint():
                                    for step in todo:
                                        _apply(w, now, touched, step)
                                    if how == "undone":
                                        raise Undone
                        except Undone:
                            now, touched = before, before_touched
                        assert {key: w.get(key) for key in KEYS} == {key: now.get(key) for key in KEYS}
                        if scans:  # what was changed reaches the rows then, or only at the end
                            assert dict(w.scan(b"")) == now
                    if not commits:
                        raise Undone
            except Undone:
                now, touched = model, set()
            model = now
            assert rows(engine) == model
            new = all_redo(engine, position)
            assert len(new) == (1 if touched else 0)
            if touched:
                assert new[0].number == position + 1
                assert sorted(new[0].changes) == sorted((key, model.get(key)) for key in touched)
        assert replay(all_redo(engine)) == model
        assert [record.number for record in all_redo(engine)] == list(range(1, engine.redo_position() + 1))


def _apply(w: Writer, now: dict[bytes, bytes], touched: set[bytes], step: tuple[str, bytes, bytes]) -> None:
    what, key, value = step
    if what == "put":
        w.put(key, value)
        now[key] = value
        touched.add(key)
    else:
        there = w.delete(key)
        assert there == (now.pop(key, None) is not None)
        if there:
            touched.add(key)


def test_a_copy_is_loaded_as_of_a_record_and_goes_on_after_it(rig: Rig) -> None:
    engine = rig.engine
    engine.load([(b"a", b"1"), (b"b" * 600, b"2"), (b"gone", b"3")], 41)
    engine.load([(b"a", b"4"), (b"gone", None), (b"never there", None)], 43)
    assert rows(engine) == {b"a": b"4", b"b" * 600: b"2"}
    assert engine.redo_position() == 43
    assert engine.read_redo(43, 10) == []
    with pytest.raises(LogTrimmed):
        engine.read_redo(42, 10)
    engine = rig.reopen()
    assert rows(engine) == {b"a": b"4", b"b" * 600: b"2"}
    with engine.write() as w:
        w.put(b"c", b"5")
    assert all_redo(engine, 43) == [RedoRecord(44, [(b"c", b"5")])]
    assert rows(rig.reopen()) == {b"a": b"4", b"b" * 600: b"2", b"c": b"5"}


def test_a_copy_is_not_loaded_over_changes_nor_back_in_time(engine: Engine) -> None:
    engine.load([(b"a", b"1")], 5)
    for position in (-1, 4):
        with pytest.raises(InvalidArgument):
            engine.load([(b"a", b"2")], position)
    engine.load([(b"a", b"3")], 5)
    with engine.write() as w:
        w.put(b"b", b"1")
    with pytest.raises(InvalidArgument, match="empty folder"):
        engine.load([(b"a", b"4")], 9)
    assert rows(engine) == {b"a": b"3", b"b": b"1"}


def test_usage_follows_what_is_stored(engine: Engine) -> None:
    empty = engine.usage()
    with engine.write() as w:
        for number in range(200):
            w.put(b"%d" % number, bytes(5000))
    full = engine.usage()
    assert full.used > empty.used + 500_000
    assert full.room > 0
