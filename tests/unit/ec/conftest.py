"""An independent Reed-Solomon: GF(256) by galois, the Cauchy matrix by its definition, and plain zero padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import galois
import numpy as np
import numpy.typing as npt
import pytest

from reedbed.ec.profiles import Profile

Bytes2D = npt.NDArray[np.uint8]


class Reference:
    """Slow and simple. Shards are padded with zeros in full."""

    def __init__(self) -> None:
        self.field = galois.GF(2**8, irreducible_poly=0x11D, primitive_element=2)
        values = self.field(np.arange(256, dtype=np.uint8))
        self.products = np.asarray(np.multiply.outer(values, values), dtype=np.uint8)

    def matrix(self, profile: Profile) -> Bytes2D:
        """Identity on top; below it the element at (i, j) is the inverse of i xor j."""
        k, n = profile.k, profile.n
        rows, columns = np.arange(k, n)[:, None], np.arange(k)[None, :]
        parity = self.field(1) / self.field((rows ^ columns).astype(np.uint8))
        return np.concatenate([np.eye(k, dtype=np.uint8), np.asarray(parity, dtype=np.uint8)])

    def encode(self, profile: Profile, data: Sequence[bytes]) -> list[bytes]:
        """The m parity shards."""
        length = max(map(len, data))
        padded = np.frombuffer(b"".join(shard.ljust(length, b"\0") for shard in data), dtype=np.uint8)
        parity = self.apply(self.matrix(profile)[profile.k :], padded.reshape(profile.k, length))
        return [row.tobytes() for row in parity]

    def decode(self, profile: Profile, have: Mapping[int, bytes], wanted: int, length: int) -> bytes:
        """Shard `wanted` from the first k of `have`, by inverting with galois."""
        chosen = list(have)[: profile.k]
        matrix = self.matrix(profile)
        inverse = np.linalg.inv(self.field(matrix[chosen]))
        row = np.asarray(self.field(matrix[wanted : wanted + 1]) @ inverse, dtype=np.uint8)
        padded = np.frombuffer(b"".join(have[i].ljust(length, b"\0") for i in chosen), dtype=np.uint8)
        decoded: bytes = self.apply(row, padded.reshape(profile.k, length))[0].tobytes()
        return decoded

    def apply(self, matrix: Bytes2D, shards: Bytes2D) -> Bytes2D:
        """matrix times shards over GF(256)."""
        terms = self.products[matrix[:, :, None], shards[None, :, :]]
        combined: Bytes2D = np.bitwise_xor.reduce(terms, axis=1)
        return combined


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture
def random_bytes(request: pytest.FixtureRequest) -> Callable[[int], bytes]:
    """Bytes that differ from test to test and are the same in each run."""
    rng = np.random.default_rng(list(request.node.name.encode()))
    return lambda length: rng.bytes(length)
