"""Encoding and rebuilding: systematic Reed-Solomon over GF(256) (0x11d) with ISA-L's Cauchy matrix.

Byte i of every shard depends on byte i of the others only, so shards of one extent need not be equally long. A short
one counts as padded with zeros. Work goes segment by segment between the distinct lengths, each with the part of the
matrix that belongs to the shards that reach so far; zeros add nothing, so the padding is never made.

Two codecs give the same bytes: `IsalCodec` (no copy, no GIL) and `PyeclibCodec`, where ISA-L cannot be loaded.
Both may be used from many threads. Output buffers must not overlap inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Final, Protocol, TypeAlias

from pyeclib.ec_iface import ECDriver

from reedbed.common.checksums import Buffer
from reedbed.common.errors import DataLoss, InvalidArgument
from reedbed.common.limits import MIB, SHARD_MAX
from reedbed.ec.isal import Isal, Pointer, Tables, find_isal
from reedbed.ec.profiles import Profile

WritableBuffer: TypeAlias = bytearray | memoryview

_TABLES_KEPT: Final = 512  # of one profile; at most 8 KiB each


class Codec(Protocol):
    """The code of one profile."""

    @property
    def profile(self) -> Profile: ...

    def encode(self, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """Fill the m parity buffers from the k data shards, of any lengths; each parity buffer is as long as the
        longest of them. InvalidArgument for any other number or length."""
        ...

    def encoder(self, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> Callable[[int, int], None]:
        """`encode` by pieces, for whoever wants to look at bytes while the processor has them at hand: what it returns
        fills the bytes from start to end of all parity buffers."""
        ...

    def rebuild(self, have: Mapping[int, Buffer], want: Mapping[int, WritableBuffer]) -> None:
        """Fill the buffers of lost shards from any k others.

        `have` maps shard index (data 0..k-1, parity k..k+m-1) to one common byte range of that shard: what the shard
        holds of it, so shorter, or empty, where the shard ends early. `want` maps lost indexes to buffers for the same
        range, each as long as wanted within it. Of more than k shards the first k by index are used. DataLoss where
        `have` has fewer than k, InvalidArgument where an index or length cannot be.
        """
        ...

    def rebuilder(self, have: Mapping[int, Buffer], want: Mapping[int, WritableBuffer]) -> Callable[[int, int], None]:
        """`rebuild` by pieces, as `encoder`: what it returns fills the bytes from start to end of what is wanted."""
        ...


def codec_for(profile: Profile, native: bool | None = None) -> Codec:
    """The codec of `profile`, made once. `native`: True for ISA-L itself, False for pyeclib, None for the best there
    is. InvalidArgument where ISA-L is asked for and cannot be loaded."""
    if native is None:
        native = find_isal() is not None
    return _codec_for(profile, native)


@cache
def _codec_for(profile: Profile, native: bool) -> Codec:
    if not native:
        return PyeclibCodec(profile)
    library = find_isal()
    if library is None:
        raise InvalidArgument("ISA-L cannot be loaded", hint="Install pyeclib's wheel or the system's libisal")
    return IsalCodec(profile, library)


class IsalCodec:
    """ISA-L on the caller's own buffers. Keeps the tables of recent combinations of shards."""

    def __init__(self, profile: Profile, library: Isal) -> None:
        self.profile = profile
        self._library = library
        self._matrix = library.cauchy(profile.n, profile.k)
        self._tables: Callable[[tuple[int, ...], tuple[int, ...], tuple[int, ...]], Tables]
        self._tables = lru_cache(_TABLES_KEPT)(self._make_tables)
        self._data = tuple(range(profile.k))

    def encode(self, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """See Codec."""
        self.encoder(data, parity)(0, SHARD_MAX)

    def encoder(self, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> Callable[[int, int], None]:
        """See Codec."""
        _check_counts(self.profile, data, parity)
        sources = [self._library.readable(shard) for shard in data]
        outputs = [self._library.writable(shard) for shard in parity]
        _check_parity_lengths(map(len, sources), map(len, outputs))
        return self._by_pieces(self._data, sources, tuple(range(self.profile.k, self.profile.n)), outputs)

    def rebuild(self, have: Mapping[int, Buffer], want: Mapping[int, WritableBuffer]) -> None:
        """See Codec."""
        self.rebuilder(have, want)(0, SHARD_MAX)

    def rebuilder(self, have: Mapping[int, Buffer], want: Mapping[int, WritableBuffer]) -> Callable[[int, int], None]:
        """See Codec."""
        chosen = _choose(self.profile, have, want)
        sources = [self._library.readable(have[index]) for index in chosen]
        outputs = [self._library.writable(shard) for shard in want.values()]
        _check_range(map(len, sources), map(len, outputs))
        return self._by_pieces(chosen, sources, tuple(want), outputs)

    def _by_pieces(
        self, chosen: tuple[int, ...], sources: list[Pointer], wanted: tuple[int, ...], outputs: list[Pointer]
    ) -> Callable[[int, int], None]:
        """What fills the outputs, of shards `wanted`, from start to end out of the sources, of shards `chosen`."""
        runs: list[tuple[int, int, Tables, list[Pointer], list[Pointer]]] = []
        for start, end in _segments(map(len, sources), map(len, outputs)):
            reaching = [at for at, source in enumerate(sources) if len(source) > start]
            asked = [at for at, output in enumerate(outputs) if len(output) > start]
            tables = self._tables(chosen, tuple([chosen[at] for at in reaching]), tuple([wanted[at] for at in asked]))
            runs.append((start, end, tables, [sources[at] for at in reaching], [outputs[at] for at in asked]))
        combine = self._library.combine

        def fill(start: int, end: int) -> None:
            for first, last, tables, reaching, asked in runs:
                low, high = max(first, start), min(last, end)
                if low < high:
                    combine(tables, reaching, asked, low, high - low)

        return fill

    def _make_tables(self, chosen: tuple[int, ...], reaching: tuple[int, ...], wanted: tuple[int, ...]) -> Tables:
        """Tables of the matrix that gives shards `wanted` from the k shards `chosen`, of which only those of
        `reaching` have bytes."""
        rows = self._rows(chosen, wanted)
        columns = [chosen.index(index) for index in reaching]
        part = bytes(row[column] for row in rows for column in columns)
        return self._library.tables(part, len(wanted), len(reaching))

    def _rows(self, chosen: tuple[int, ...], wanted: tuple[int, ...]) -> list[bytes]:
        k = self.profile.k
        code = [self._row(index) for index in wanted]
        if chosen == self._data:
            return code
        # data = inverse * chosen, and a shard = its row of the code * data; the product is itself an encoding
        inverse = self._library.invert(b"".join(self._row(index) for index in chosen), k)
        library = self._library
        product = [bytearray(k) for _ in wanted]
        lines = [library.readable(inverse[i * k : (i + 1) * k]) for i in range(k)]
        outputs = [library.writable(row) for row in product]
        library.combine(library.tables(b"".join(code), len(wanted), k), lines, outputs, 0, k)
        return [bytes(row) for row in product]

    def _row(self, index: int) -> bytes:
        k = self.profile.k
        return self._matrix[index * k : (index + 1) * k]


class PyeclibCodec:
    """The same code through pyeclib's own interface, which copies, and wants k equal parts in one piece.

    Columns of at most 1 MiB are joined, with the padding made, and encoded at a time, so the memory it takes is bounded
    by the number of shards and not by their length. Each fragment of pyeclib starts with a header that says index and
    size; to rebuild, such headers are taken from an encoding of zeros of that size.
    """

    STEP: Final = MIB
    HEADER: Final = 80

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._driver = ECDriver(k=profile.k, m=profile.m, ec_type="isa_l_rs_cauchy")
        self._headers: Callable[[int], list[bytes]] = lru_cache(8)(self._make_headers)

    def encode(self, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """See Codec."""
        self.encoder(data, parity)(0, SHARD_MAX)

    def encoder(self, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> Callable[[int, int], None]:
        """See Codec."""
        _check_counts(self.profile, data, parity)
        sources = [_view(shard) for shard in data]
        outputs = [_view(shard, writable=True) for shard in parity]
        _check_parity_lengths(map(len, sources), map(len, outputs))
        return lambda start, end: self._encode(sources, outputs, start, min(end, max(map(len, sources))))

    def _encode(self, sources: Sequence[memoryview], outputs: Sequence[memoryview], start: int, end: int) -> None:
        for at, length in self._steps(start, end):
            joined = b"".join(self._column(source, at, length) for source in sources)
            fragments = self._driver.encode(joined)[self.profile.k :]
            self._spread(fragments, outputs, at)

    def rebuild(self, have: Mapping[int, Buffer], want: Mapping[int, WritableBuffer]) -> None:
        """See Codec."""
        self.rebuilder(have, want)(0, SHARD_MAX)

    def rebuilder(self, have: Mapping[int, Buffer], want: Mapping[int, WritableBuffer]) -> Callable[[int, int], None]:
        """See Codec."""
        chosen = _choose(self.profile, have, want)
        sources = {index: _view(have[index]) for index in chosen}
        outputs = {index: _view(want[index], writable=True) for index in sorted(want)}
        _check_range(map(len, sources.values()), map(len, outputs.values()))
        longest = max(map(len, outputs.values()), default=0)

        def fill(first: int, end: int) -> None:
            for start, length in self._steps(first, min(end, longest)):
                headers = self._headers(length)
                given = [headers[i] + self._column(source, start, length) for i, source in sources.items()]
                self._spread(self._driver.reconstruct(given, list(outputs)), outputs.values(), start)

        return fill

    def _steps(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        for start in range(first, end, self.STEP):
            yield start, min(self.STEP, end - start)

    @staticmethod
    def _column(source: memoryview, start: int, length: int) -> bytes:
        return bytes(source[start : start + length]).ljust(length, b"\0")

    def _spread(self, fragments: Iterable[bytes], outputs: Iterable[memoryview], start: int) -> None:
        for fragment, output in zip(fragments, outputs, strict=True):
            place = output[start : start + len(fragment) - self.HEADER]
            place[:] = memoryview(fragment)[self.HEADER : self.HEADER + len(place)]

    def _make_headers(self, length: int) -> list[bytes]:
        return [fragment[: self.HEADER] for fragment in self._driver.encode(bytes(self.profile.k * length))]


def _view(buffer: Buffer, writable: bool = False) -> memoryview:
    try:
        view = memoryview(buffer)
        if writable and view.readonly:
            raise InvalidArgument("a shard's buffer cannot be used: it is read-only")
        if view.nbytes == 0:
            return memoryview(bytearray())
        return view.cast("B")
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"a shard's buffer cannot be used: {error}") from error


def _segments(sources: Iterable[int], outputs: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The runs between the distinct lengths, up to the longest output. At least one source reaches that far."""
    wanted = set(outputs)
    end = max(wanted, default=0)
    start = 0
    for border in sorted(wanted.union(sources)):
        if start < border <= end:
            yield start, border
            start = border


def _check_counts(profile: Profile, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
    if len(data) != profile.k or len(parity) != profile.m:
        raise InvalidArgument(
            f"{profile} takes {profile.k} data and {profile.m} parity shards: {len(data)}, {len(parity)}"
        )


def _check_parity_lengths(data: Iterable[int], parity: Iterable[int]) -> None:
    longest = max(data)
    if longest > SHARD_MAX:
        raise InvalidArgument(f"a shard of {longest} bytes is longer than {SHARD_MAX}")
    for length in parity:
        if length != longest:
            raise InvalidArgument(f"a parity shard has {length} bytes while the longest data shard has {longest}")


def _check_range(have: Iterable[int], want: Iterable[int]) -> None:
    longest = max(have)
    if longest > SHARD_MAX:
        raise InvalidArgument(f"a shard of {longest} bytes is longer than {SHARD_MAX}")
    for length in want:
        # k right shards always reach as far as any other shard, so some of them were cut short
        if length > longest:
            raise InvalidArgument(f"{length} bytes of a shard are wanted from at most {longest} bytes of others")


def _choose(profile: Profile, have: Mapping[int, Buffer], want: Mapping[int, WritableBuffer]) -> tuple[int, ...]:
    """The k of `have` to use, data first: it is never longer than parity."""
    for index in (*have, *want):
        if not 0 <= index < profile.n:
            raise InvalidArgument(f"{profile} has no shard {index}")
    both = have.keys() & want.keys()
    if both:
        raise InvalidArgument(f"shards {sorted(both)} are both given and wanted")
    if len(have) < profile.k:
        raise DataLoss(
            f"{len(have)} good shards are left and {profile} needs {profile.k}",
            where=f"wanted shards {sorted(want)}, have {sorted(have)}",
        )
    return tuple(sorted(have)[: profile.k])
