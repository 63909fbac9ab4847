from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyeclib.ec_iface import ECDriver

from reedbed.common.errors import DataLoss, InvalidArgument
from reedbed.common.limits import MIB
from reedbed.ec import codec as codec_module
from reedbed.ec.codec import Codec, IsalCodec, PyeclibCodec, codec_for
from reedbed.ec.isal import Isal, find_isal
from reedbed.ec.profiles import Profile

RS_4_2 = Profile(4, 2)
EVERY_PROFILE = [Profile(k, m) for k in range(1, 33) for m in range(1, 9)]
NATIVE = [True, False]


def encode(codec: Codec, data: Sequence[bytes]) -> list[bytes]:
    parity = [bytearray(b"\xff" * max(map(len, data))) for _ in range(codec.profile.m)]
    codec.encode(data, parity)
    return [bytes(shard) for shard in parity]


def rebuild(codec: Codec, have: Mapping[int, bytes], lengths: Mapping[int, int]) -> dict[int, bytes]:
    want = {index: bytearray(b"\xff" * length) for index, length in lengths.items()}
    codec.rebuild(have, want)
    return {index: bytes(buffer) for index, buffer in want.items()}


def check_rebuild(
    codec: Codec, shards: Sequence[bytes], lost: Sequence[int], start: int = 0, end: int = 1 << 40
) -> None:
    """All of `lost` come back from the others, for one byte range of them."""
    parts = [shard[start:end] for shard in shards]
    have = {index: part for index, part in enumerate(parts) if index not in lost}
    assert rebuild(codec, have, {i: len(parts[i]) for i in lost}) == {i: parts[i] for i in lost}


def test_isal_is_found_in_the_wheel() -> None:
    library = find_isal()
    assert library is not None
    assert isinstance(codec_for(RS_4_2), IsalCodec)
    assert codec_for(RS_4_2) is codec_for(RS_4_2, native=True)
    assert isinstance(codec_for(RS_4_2, native=False), PyeclibCodec)


def test_isal_computes_without_the_interpreters_lock() -> None:
    """Another thread runs while a call is under way: with the lock held it would only ever run between two calls."""
    codec = codec_for(Profile(8, 8), native=True)
    data = [bytes(4 * MIB) for _ in range(8)]
    parity = [bytearray(4 * MIB) for _ in range(8)]
    codec.encode(data, parity)  # its tables are there from now on
    inside = seen = False

    def encode_until_seen() -> None:
        nonlocal inside
        for _ in range(200):
            inside = True
            codec.encode(data, parity)
            inside = False
            if seen:
                return

    thread = threading.Thread(target=encode_until_seen)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)  # nobody who holds the lock is asked to give it up
    try:
        thread.start()
        while thread.is_alive():
            seen = seen or inside
            thread.join(0.0001)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert seen


def test_without_isal_pyeclib_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "find_isal", lambda: None)
    codec_module._codec_for.cache_clear()
    try:
        assert isinstance(codec_for(RS_4_2), PyeclibCodec)
        with pytest.raises(InvalidArgument, match="ISA-L"):
            codec_for(RS_4_2, native=True)
    finally:
        codec_module._codec_for.cache_clear()


def test_a_library_without_the_functions_is_not_taken() -> None:
    with pytest.raises(AttributeError):
        Isal("libc.so.6")
    with pytest.raises(OSError, match="no-such"):
        Isal("no-such-library.so")


def test_matrix_is_the_cauchy_matrix(reference: Any) -> None:
    library = find_isal()
    assert library is not None
    for profile in EVERY_PROFILE:
        assert library.cauchy(profile.n, profile.k) == reference.matrix(profile).tobytes()


def test_singular_matrix_is_an_error() -> None:
    library = find_isal()
    assert library is not None
    with pytest.raises(ValueError, match="singular"):
        library.invert(b"\1\1\1\1", 2)
    assert library.invert(b"\1\0\0\1", 2) == b"\1\0\0\1"


def test_encode_equals_pyeclib_itself_for_every_profile(random_bytes: Callable[[int], bytes]) -> None:
    for profile in EVERY_PROFILE:
        data = [random_bytes(70) for _ in range(profile.k)]
        driver = ECDriver(k=profile.k, m=profile.m, ec_type="isa_l_rs_cauchy")
        fragments = [fragment[80:] for fragment in driver.encode(b"".join(data))]
        assert fragments == data + encode(codec_for(profile, native=True), data), profile


@pytest.mark.parametrize("native", NATIVE)
def test_encode_equals_reference_for_every_profile(
    native: bool, reference: Any, random_bytes: Callable[[int], bytes]
) -> None:
    for profile in EVERY_PROFILE:
        data = [random_bytes(37) for _ in range(profile.k)]
        assert encode(codec_for(profile, native), data) == reference.encode(profile, data), profile


@pytest.mark.parametrize("native", NATIVE)
def test_every_length_to_200_equals_reference(
    native: bool, reference: Any, random_bytes: Callable[[int], bytes]
) -> None:
    for profile in (RS_4_2, Profile(1, 3), Profile(10, 4), Profile(5, 8)):
        codec = codec_for(profile, native)
        lost = list(range(profile.m))
        for length in range(201):
            data = [random_bytes(length) for _ in range(profile.k)]
            parity = encode(codec, data)
            assert parity == reference.encode(profile, data)
            check_rebuild(codec, data + parity, lost)


def test_rebuild_equals_reference_decoding(reference: Any, random_bytes: Callable[[int], bytes]) -> None:
    profile = Profile(6, 3)
    data = [random_bytes(50) for _ in range(6)]
    shards = data + reference.encode(profile, data)
    for lost in ((0, 3, 7), (1, 2, 5), (6, 7, 8), (0, 6, 8)):
        have = {i: shards[i] for i in range(9) if i not in lost}
        expected = {i: reference.decode(profile, have, i, 50) for i in lost}
        assert expected == {i: shards[i] for i in lost}
        for native in NATIVE:
            assert rebuild(codec_for(profile, native), have, dict.fromkeys(lost, 50)) == expected


@pytest.mark.parametrize("native", NATIVE)
@pytest.mark.parametrize("lengths", [(300, 300, 300, 300), (300, 7, 0, 129), (0, 64, 0, 64), (100, 0, 0, 0)])
def test_every_loss_of_rs_4_2(native: bool, lengths: tuple[int, ...], random_bytes: Callable[[int], bytes]) -> None:
    codec = codec_for(RS_4_2, native)
    data = [random_bytes(length) for length in lengths]
    shards = data + encode(codec, data)
    for count in (0, 1, 2):
        for lost in combinations(range(6), count):
            for start, end in ((0, 300), (0, 1), (63, 65), (7, 131), (64, 300)):
                check_rebuild(codec, shards, lost, start, end)


@pytest.mark.parametrize("native", NATIVE)
def test_sampled_losses_of_every_profile(native: bool, random_bytes: Callable[[int], bytes]) -> None:
    rng = Random(7)
    for profile in EVERY_PROFILE:
        codec = codec_for(profile, native)
        data = [random_bytes(rng.choice((0, 1, 33, 64, 100))) for _ in range(profile.k)]
        shards = data + encode(codec, data)
        losses = [rng.sample(range(profile.n), profile.m) for _ in range(3)]
        losses.append(list(range(min(profile.k, profile.m))))
        losses.append(list(range(profile.k, profile.n)))
        for lost in losses:
            check_rebuild(codec, shards, lost)


unequal_shards = st.integers(1, 6).flatmap(
    lambda k: st.lists(
        st.one_of(st.just(b""), st.binary(max_size=150), st.binary(min_size=100, max_size=100)), min_size=k, max_size=k
    )
)


@given(data=unequal_shards, m=st.integers(1, 8), draw=st.data())
@settings(max_examples=100, deadline=None)
def test_unequal_shards_equal_explicit_padding(data: list[bytes], m: int, draw: st.DataObject) -> None:
    profile = Profile(len(data), m)
    length = max(map(len, data))
    padded = [shard.ljust(length, b"\0") for shard in data]
    native, fallback = codec_for(profile, native=True), codec_for(profile, native=False)
    parity = encode(native, data)
    assert parity == encode(native, padded) == encode(fallback, data) == encode(fallback, padded)

    lost = draw.draw(st.sets(st.integers(0, profile.n - 1), max_size=m))
    start = draw.draw(st.integers(0, length))
    end = draw.draw(st.integers(start, length))
    for codec in (native, fallback):
        check_rebuild(codec, data + parity, sorted(lost), start, end)
        check_rebuild(codec, padded + parity, sorted(lost), start, end)


def test_more_than_a_step_of_the_fallback(random_bytes: Callable[[int], bytes]) -> None:
    profile = Profile(2, 1)
    data = [random_bytes(2 * MIB + 5), random_bytes(MIB + 1)]
    parity = encode(codec_for(profile, native=True), data)
    fallback = codec_for(profile, native=False)
    assert encode(fallback, data) == parity
    check_rebuild(fallback, data + parity, [0])
    check_rebuild(fallback, data + parity, [1])


@pytest.mark.parametrize("native", NATIVE)
def test_any_kind_of_buffer_at_any_offset(native: bool, reference: Any, random_bytes: Callable[[int], bytes]) -> None:
    profile = Profile(3, 2)
    numbers = np.frombuffer(random_bytes(80), dtype=np.float64)
    base = random_bytes(100)
    data: list[Any] = [memoryview(numbers.data), bytearray(random_bytes(77)), memoryview(base)[3:82]]
    ground = bytearray(400)
    parity: list[Any] = [memoryview(ground)[1:81], memoryview(ground)[201:281]]
    codec = codec_for(profile, native)
    codec.encode(data, parity)
    assert list(map(bytes, parity)) == reference.encode(profile, list(map(bytes, data)))
    assert ground[:1] + ground[81:201] + ground[281:] == bytes(400 - 160)  # nothing beside the buffers is touched

    target = np.zeros(10, dtype=np.float64)
    codec.rebuild({1: data[1], 2: data[2], 4: parity[1]}, {0: target.data})
    assert target.tobytes() == numbers.tobytes()


@pytest.mark.parametrize("native", NATIVE)
def test_of_more_than_k_shards_the_first_are_used(native: bool, random_bytes: Callable[[int], bytes]) -> None:
    codec = codec_for(RS_4_2, native)
    data = [random_bytes(90) for _ in range(4)]
    parity = encode(codec, data)
    have = {5: random_bytes(90), 4: parity[0], 3: data[3], 2: data[2], 1: data[1]}
    assert rebuild(codec, have, {0: 90}) == {0: data[0]}


@pytest.mark.parametrize("native", NATIVE)
def test_a_part_of_a_lost_shard_is_enough(native: bool, random_bytes: Callable[[int], bytes]) -> None:
    codec = codec_for(RS_4_2, native)
    data = [random_bytes(90) for _ in range(4)]
    parity = encode(codec, data)
    have = {1: data[1], 2: data[2], 4: parity[0], 5: parity[1]}
    assert rebuild(codec, have, {0: 10, 3: 70}) == {0: data[0][:10], 3: data[3][:70]}
    assert rebuild(codec, have, {3: 0}) == {3: b""}
    assert rebuild(codec, have, {}) == {}


@pytest.mark.parametrize("native", NATIVE)
def test_bad_input_of_encode_changes_nothing(native: bool) -> None:
    codec = codec_for(Profile(2, 1), native)
    out = bytearray(b"\xee" * 5)
    bad: list[tuple[list[Any], list[Any]]] = [
        ([b"12345"], [out]),
        ([b"12345"] * 3, [out]),
        ([b"12345"] * 2, [out, out]),
        ([b"12345"] * 2, []),
        ([b"1234", b"1"], [out]),
        ([b"123456", b"1"], [out]),
        ([b"12345"] * 2, [bytes(out)]),
        ([b"12345", memoryview(b"1234567890")[::2]], [out]),
        ([b"12345", "text"], [out]),
    ]
    for data, parity in bad:
        with pytest.raises(InvalidArgument):
            codec.encode(data, parity)
    assert out == b"\xee" * 5


@pytest.mark.parametrize("native", NATIVE)
def test_bad_input_of_rebuild_changes_nothing(native: bool) -> None:
    codec = codec_for(Profile(2, 2), native)
    out = bytearray(b"\xee" * 5)
    with pytest.raises(DataLoss, match="1 good shards are left and rs-2-2 needs 2"):
        codec.rebuild({1: b"12345"}, {0: out})
    bad: list[tuple[dict[int, Any], dict[int, Any]]] = [
        ({1: b"12345", 4: b"12345"}, {0: out}),
        ({1: b"12345", 2: b"12345"}, {-1: out}),
        ({0: b"12345", 1: b"12345"}, {0: out}),
        ({1: b"1234", 2: b"1234"}, {0: out}),
        ({1: b"12345", 2: b"12345"}, {0: bytes(out)}),
    ]
    for have, want in bad:
        with pytest.raises(InvalidArgument):
            codec.rebuild(have, want)
    assert out == b"\xee" * 5


def test_neither_shards_nor_padding_are_copied(random_bytes: Callable[[int], bytes]) -> None:
    profile = Profile(10, 2)
    codec = codec_for(profile, native=True)
    data = [random_bytes(4 * MIB), random_bytes(MIB), *([b""] * 8)]
    parity = [bytearray(4 * MIB), bytearray(4 * MIB)]
    target = bytearray(4 * MIB)
    tracemalloc.start()
    try:
        codec.encode(data, parity)
        codec.rebuild(dict(enumerate([*data[1:], parity[0]], start=1)), {0: target})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert target == data[0]
    assert peak < 64 * 1024


def test_many_threads_share_a_codec(random_bytes: Callable[[int], bytes]) -> None:
    profile = Profile(8, 3)
    codec = codec_for(profile)
    data = [random_bytes(5000 + i) for i in range(8)]
    shards = data + encode(codec, data)
    done: list[int] = []

    def work(seed: int) -> None:
        rng = Random(seed)
        for _ in range(50):
            check_rebuild(codec, shards, rng.sample(range(profile.n), 3))
        done.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2, 3]


@pytest.mark.parametrize("native", NATIVE)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_by_pieces_as_in_one_go(native: bool, data: st.DataObject) -> None:
    codec = codec_for(Profile(3, 2), native=native)
    shards = [data.draw(st.binary(max_size=60)) for _ in range(2)] + [data.draw(st.binary(min_size=1, max_size=60))]
    whole = encode(codec, shards)
    longest = len(whole[0])
    borders = sorted({0, longest, *data.draw(st.lists(st.integers(0, longest), max_size=4))})
    parity = [bytearray(b"\xff" * longest) for _ in range(2)]
    by_pieces = codec.encoder(shards, parity)
    for start, end in reversed(list(pairwise(borders))):
        by_pieces(start, end)
    assert [bytes(shard) for shard in parity] == whole
    everything = [*shards, *whole]
    lost = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=2, unique=True))
    want = {index: bytearray(b"\xff" * len(everything[index])) for index in lost}
    by_pieces = codec.rebuilder({i: shard for i, shard in enumerate(everything) if i not in lost}, want)
    for start, end in pairwise(borders):
        by_pieces(start, end)
    assert {index: bytes(shard) for index, shard in want.items()} == {index: everything[index] for index in lost}
