"""The device's folder: whose it is, what is refused, and what survives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common.errors import (
    Corrupt,
    InvalidArgument,
    NewerFormat,
    ReedbedError,
    StaleTerm,
    Unavailable,
    WrongCluster,
)
from reedbed.storaged import generations, identity
from reedbed.storaged.disk import RealDisk, replace_whole
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.store import ShardStore
from tests.unit.storaged.conftest import CLUSTER, open_store, shard


def test_a_new_folder_becomes_a_device_and_stays_it(tmp_path: Path) -> None:
    disk = MemoryDisk(tmp_path)
    made = identity.open_or_create(disk, CLUSTER)
    assert identity.open_or_create(disk, CLUSTER) == made
    assert made.incarnation == 1
    assert len(made.seed) == 16
    with pytest.raises(InvalidArgument, match="is that of device"):
        identity.open_or_create(disk, CLUSTER, uuid.uuid4())
    with pytest.raises(WrongCluster):
        identity.open_or_create(disk, bytes(16))


def test_somebody_elses_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InvalidArgument, match="not empty"):
        ShardStore.open(tmp_path, CLUSTER)
    assert {path.name for path in tmp_path.iterdir()} - {"lock"} == {"thesis.tex"}


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    disk = MemoryDisk(tmp_path)
    replace_whole(disk, identity.NAME, b'{"format": 2, "shape": "unheard of"}')
    with pytest.raises(NewerFormat):
        open_store(disk)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 399), bit=st.integers(0, 7))
def test_any_flipped_bit_of_an_identity_is_noticed(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    disk = MemoryDisk(tmp_path_factory.getbasetemp())
    made = identity.open_or_create(disk, CLUSTER)
    raw = disk.content(identity.NAME)
    raw[at % len(raw)] ^= 1 << bit
    try:
        loaded = identity.load(disk)
    except (Corrupt, NewerFormat):
        return
    assert loaded == made  # white space may change


@settings(max_examples=50, deadline=None)
@given(raw=st.one_of(st.binary(max_size=80), st.recursive(st.integers() | st.text(), st.lists).map(json.dumps)))
def test_garbage_is_corrupt(tmp_path_factory: pytest.TempPathFactory, raw: bytes | str) -> None:
    disk = MemoryDisk(tmp_path_factory.getbasetemp())
    replace_whole(disk, identity.NAME, raw if isinstance(raw, bytes) else raw.encode())
    with pytest.raises(Corrupt):
        identity.open_or_create(disk, CLUSTER)


def test_a_truncated_identity_is_corrupt(tmp_path: Path) -> None:
    disk = MemoryDisk(tmp_path)
    identity.open_or_create(disk, CLUSTER)
    raw = bytes(disk.content(identity.NAME))
    for length in range(len(raw)):
        replace_whole(disk, identity.NAME, raw[:length])
        with pytest.raises(Corrupt):
            identity.load(disk)


def test_two_processes_cannot_serve_one_folder(tmp_path: Path) -> None:
    store = ShardStore.open(tmp_path / "d", CLUSTER)
    try:
        with pytest.raises(Unavailable, match=str(os.getpid())) as caught:
            ShardStore.open(tmp_path / "d", CLUSTER)
        assert not caught.value.retryable
        program = (
            "import sys, pathlib\n"
            "from reedbed.common.errors import Unavailable\n"
            "from reedbed.storaged.store import ShardStore\n"
            "try: ShardStore.open(pathlib.Path(sys.argv[1]), bytes(range(16)))\n"
            "except Unavailable as error: print(error)\n"
        )
        told = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "d")], capture_output=True, text=True, check=True
        ).stdout
        assert str(os.getpid()) in told
    finally:
        store.close()
    ShardStore.open(tmp_path / "d", CLUSTER).close()


def test_a_cluster_id_has_16_bytes(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        ShardStore.open(tmp_path / "d", b"short")
    assert not (tmp_path / "d").exists()


def test_a_term_is_remembered_and_older_orders_are_refused(opened: Callable[..., ShardStore]) -> None:
    store = opened()
    store.note_term(7)
    store.close(clean=False)
    store = opened()
    assert store.term == 7
    with pytest.raises(StaleTerm):
        store.remove([], 6)
    with pytest.raises(StaleTerm):
        store.note_term(6)
    assert store.remove([], 8) == []
    assert store.term == 8


def test_generations_are_remembered_from_notes_and_from_writes(
    opened: Callable[..., ShardStore], disk: MemoryDisk, data: bytes
) -> None:
    store = opened()
    store.note_generation(5, 9)
    store.put(shard(1, data, pg=6, generation=4)).result(5)
    store.close(clean=False)
    store = opened()
    assert (store.generation(5), store.generation(6), store.generation(7)) == (9, 4, 0)
    store.note_generation(5, 3)
    assert store.generation(5) == 9


def test_a_damaged_file_of_generations_is_made_again_from_records(
    opened: Callable[..., ShardStore], disk: MemoryDisk, data: bytes
) -> None:
    store = opened()
    store.put(shard(1, data, pg=6, generation=4)).result(5)
    store.close(clean=False)
    replace_whole(disk, generations.NAME, b"garbage")
    store = opened()
    assert store.generation(6) == 4
    assert store.status().counters["store.generations_damaged"] == 1


@given(known=st.dictionaries(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1), max_size=8), cut=st.data())
def test_generations_round_trip_and_any_change_is_noticed(known: dict[int, int], cut: st.DataObject) -> None:
    raw = generations.encode(known)
    assert generations.decode(raw) == known
    with pytest.raises(ReedbedError):
        generations.decode(raw[: cut.draw(st.integers(0, len(raw) - 1))])
    bad = bytearray(raw)
    bad[cut.draw(st.integers(0, len(raw) - 1))] ^= 1 << cut.draw(st.integers(0, 7))
    with pytest.raises(ReedbedError):
        generations.decode(bytes(bad))


def test_a_real_folder_has_the_files_that_the_formats_name(tmp_path: Path, data: bytes) -> None:
    with ShardStore.open(tmp_path / "d", CLUSTER) as store:
        store.put(shard(1, data)).result(5)
    names = RealDisk(tmp_path / "d").names()
    assert set(names) == {"clean", "device.json", "generations", "index", "lock", "reserve", "segments"}
