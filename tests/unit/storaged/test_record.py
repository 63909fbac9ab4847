"""The bytes of a segment: what is written is read, and every change of it is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.common.ids import Id
from reedbed.extents.blocks import pack_table
from reedbed.storaged import entries, record
from reedbed.storaged.record import HEAD, Kind, NoteHead, ShardHead

Row = tuple[int, int]
U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)
IDS = st.binary(min_size=16, max_size=16).map(Id)
TABLES = st.lists(st.tuples(st.integers(1, 65536), U32), max_size=5)


@st.composite
def shards(draw: st.DrawFn) -> tuple[dict[str, int | bytes], list[Row], list[list[Row]]]:
    k, m = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    index = draw(st.integers(0, k + m - 1))
    own = draw(TABLES)
    data = [draw(TABLES) for _ in range(k)] if index >= k else []
    fields: dict[str, int | bytes] = {
        "extent": draw(IDS),
        "index": index,
        "k": k,
        "m": m,
        "pg": draw(U32),
        "generation": draw(U64),
        "log_term": draw(U64),
        "log_seq": draw(U64),
        "payload": sum(row[0] for row in own),
        "blocks": len(own),
        "tables": record.pack_tables(pack_table(own), [pack_table(one) for one in data]),
    }
    return fields, own, data


NOTES = st.builds(
    NoteHead, st.sampled_from([Kind.REMOVAL, Kind.RENEWAL]), IDS, st.integers(0, 39), U32, U64, U64, U64, U64
)


def parse(raw: bytes, seed: int = 5) -> ShardHead | NoteHead:
    return record.parse_head(raw, seed)


@given(made=shards(), salt=st.binary(min_size=16, max_size=16), segment=U64, offset=U64)
def test_a_shards_record_round_trips(
    made: tuple[dict[str, int | bytes], list[Row], list[list[Row]]], salt: bytes, segment: int, offset: int
) -> None:
    fields, own, data = made
    seed = record.place(salt, segment, offset)
    raw = record.encode_shard_head(seed, **fields)  # type: ignore[arg-type]
    tables = fields["tables"]
    assert isinstance(tables, bytes)
    head = parse(raw, seed)
    assert isinstance(head, ShardHead)
    assert len(raw) == HEAD
    assert {name: getattr(head, name) for name in fields if name != "tables"} == {
        name: value for name, value in fields.items() if name != "tables"
    }
    assert head.length % 8 == 0
    record.check_tables(head, tables)
    assert record.own_table(head, tables) == pack_table(own)
    assert [record.data_table(head, tables, one) for one in range(len(data))] == [pack_table(one) for one in data]
    with pytest.raises(Corrupt):
        parse(raw, record.place(salt, segment, offset ^ 8))
    if tables:
        with pytest.raises(Corrupt):
            record.check_tables(head, tables[:-1] + bytes([tables[-1] ^ 1]))
        with pytest.raises(Corrupt):
            record.check_tables(head, tables[:-1])


@given(note=NOTES, seed=U32)
def test_a_note_round_trips(note: NoteHead, seed: int) -> None:
    raw = record.encode_note(seed, note)
    assert len(raw) == HEAD == note.length
    assert parse(raw, seed) == note


@settings(max_examples=10)
@given(made=shards(), note=NOTES)
def test_every_flipped_bit_and_every_truncation_of_a_head_is_noticed(
    made: tuple[dict[str, int | bytes], list[Row], list[list[Row]]], note: NoteHead
) -> None:
    for raw in (record.encode_shard_head(5, **made[0]), record.encode_note(5, note)):  # type: ignore[arg-type]
        for bit in range(8 * HEAD):
            bad = bytearray(raw)
            bad[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Corrupt):
                parse(bytes(bad))
        for length in range(HEAD):
            with pytest.raises(Corrupt):
                parse(raw[:length])


def test_a_record_of_a_newer_kind_or_version_is_said_to_be_newer() -> None:
    raw = record.encode_note(5, NoteHead(Kind.REMOVAL, Id(bytes(16)), 0, 1, 1, 1, 1, 40))
    for at, value in ((4, 2), (5, 9)):
        body = bytearray(raw[:-4])
        body[at] = value
        with pytest.raises(NewerFormat):
            parse(bytes(body) + crc32c(bytes(body), 5).to_bytes(4, "big"))


def test_a_head_that_contradicts_itself_is_corrupt() -> None:
    raw = record.encode_shard_head(
        5,
        extent=bytes(16),
        index=9,
        k=4,
        m=2,
        pg=1,
        generation=1,
        log_term=0,
        log_seq=0,
        payload=1,
        blocks=1,
        tables=bytes(8),
    )
    with pytest.raises(Corrupt, match="contradicts"):
        parse(raw)


def test_a_segment_header_names_number_and_device() -> None:
    raw = record.encode_segment_header(7, bytes(16))
    record.check_segment_header(raw, 7, bytes(16))
    for number, device in ((8, bytes(16)), (7, b"x" * 16)):
        with pytest.raises(Corrupt):
            record.check_segment_header(raw, number, device)
    for bit in range(8 * len(raw)):
        bad = bytearray(raw)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            record.check_segment_header(bytes(bad), 7, bytes(16))
    newer = bytearray(raw[:-4])
    newer[8] = 2
    with pytest.raises(NewerFormat):
        record.check_segment_header(bytes(newer) + crc32c(bytes(newer)).to_bytes(4, "big"), 7, bytes(16))


@given(
    entry=st.builds(
        entries.Entry,
        st.sampled_from([entries.LIVE, entries.REMOVED]),
        st.integers(1, 32),
        st.integers(1, 8),
        U64,
        U64,
        U64,
        U32,
        U32,
        U32,
        U64,
    ),
    note=NOTES,
    id_=IDS,
    index=st.integers(0, 39),
    bit=st.integers(0, 1 << 20),
)
def test_rows_of_the_index_round_trip_and_notice_changes(
    entry: entries.Entry, note: NoteHead, id_: Id, index: int, bit: int
) -> None:
    key = entries.shard_key(id_, index)
    assert entries.split_key(key) == (id_, index)
    raw = entries.encode_entry(key, entry)
    assert entries.decode_entry(key, raw) == entry
    bad = bytearray(raw)
    bad[bit // 8 % len(bad)] ^= 1 << bit % 8
    with pytest.raises(Corrupt):
        entries.decode_entry(key, bytes(bad))
    with pytest.raises(Corrupt):
        entries.decode_entry(entries.shard_key(id_, index + 1), raw)  # right bytes at the wrong key
    whole = entries.Note(note, entries.Position(3, 40))
    note_key = entries.position_key(whole.target)
    assert entries.decode_note(note_key, entries.encode_note(note_key, whole)) == whole
