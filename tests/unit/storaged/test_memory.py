"""What a device remembers of its catalog: it only gets newer, outlives restarts, and is never wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt, InvalidArgument, NewerFormat
from reedbed.common.ids import Id
from reedbed.protos.types import CatalogNote, ClusterMap, Device
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.memory import MAP, NOTE, Memory, decode_map, decode_note, encode_map, encode_note

NOTE_1 = CatalogNote(7, 3, "127.0.0.1:7300", (7, 99), 1234, True, Id(b"b" * 16), 1_700_000_000_000)


def map_of(epoch: int) -> ClusterMap:
    return ClusterMap(bytes(16), epoch, {1: Device(1, b"u" * 16, "127.0.0.1:7400", "up")}, {})


def test_files_are_as_the_formats_say() -> None:
    raw = encode_note(5, NOTE_1)
    assert struct.unpack_from(">4sB3xII", raw) == (b"RBcn", 1, 5, len(raw) - 20)
    assert int.from_bytes(raw[-4:], "big") == crc32c(raw[:-4])
    assert decode_note(raw) == (5, NOTE_1)
    raw = encode_map(7, map_of(3))
    assert struct.unpack_from(">4sB3xQI", raw) == (b"RBcm", 1, 7, len(raw) - 24)
    assert decode_map(raw) == (7, map_of(3))


def test_only_what_is_newer_is_remembered_and_it_outlives_a_restart(disk: MemoryDisk) -> None:
    memory = Memory(disk)
    assert (memory.note, memory.map) == (None, (0, None))
    memory.learn(5, NOTE_1)
    for older in (CatalogNote(7, 2), CatalogNote(6, 9)):
        memory.learn(5, older)
    assert memory.note == NOTE_1
    newer = CatalogNote(8, 1)
    memory.learn(6, newer)
    memory.learn_map(7, map_of(4))
    memory.learn_map(7, map_of(3))
    memory.learn_map(6, map_of(9))
    again = Memory(disk)
    assert (again.number, again.note, again.map) == (6, newer, (7, map_of(4)))
    again.learn_map(8, map_of(2))
    assert again.map == (8, map_of(2))


@pytest.mark.parametrize("name", [NOTE, MAP])
def test_a_damaged_file_counts_as_absent_and_is_written_again(disk: MemoryDisk, name: str) -> None:
    memory = Memory(disk)
    memory.learn(5, NOTE_1)
    memory.learn_map(7, map_of(4))
    assert memory.mend() == 0
    whole = bytes(disk.content(name))
    disk.content(name)[len(whole) // 2] ^= 1
    found = Memory(disk)
    assert (found.note is None, found.map[1] is None) == (name == NOTE, name == MAP)
    assert memory.mend() == 1
    assert bytes(disk.content(name)) == whole


@pytest.mark.parametrize(
    ("raw", "decode"), [(encode_note(5, NOTE_1), decode_note), (encode_map(7, map_of(3)), decode_map)]
)
def test_no_altered_or_missing_byte_passes_and_a_newer_file_is_refused(
    raw: bytes, decode: Callable[[bytes], object]
) -> None:
    for at in range(len(raw)):
        with pytest.raises((Corrupt, InvalidArgument)):
            decode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises((Corrupt, InvalidArgument)):
            decode(raw[:at])
    body = raw[:4] + b"\x02" + raw[5:-4]
    with pytest.raises(NewerFormat):
        decode(body + crc32c(body).to_bytes(4, "big"))
