"""Profiles: the codes that an extent can have. A profile's name is all that is stored or sent of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import K_MAX, M_MAX, POSITIONS_MAX

_NAME = re.compile(r"rs-([1-9][0-9]?)-([1-9])", re.ASCII)
_HINT = f"A profile reads rs-K-M with K from 1 to {K_MAX} and M from 1 to {M_MAX}, such as rs-4-2"


@dataclass(frozen=True, slots=True)
class Profile:
    """Systematic Reed-Solomon, `k` data shards and `m` parity shards. InvalidArgument where these are off limits."""

    k: int
    m: int

    def __post_init__(self) -> None:
        if not (1 <= self.k <= K_MAX and 1 <= self.m <= M_MAX and self.k + self.m <= POSITIONS_MAX):
            raise InvalidArgument(f"no profile has k={self.k} and m={self.m}", hint=_HINT)

    @property
    def name(self) -> str:
        """As in `rs-4-2`."""
        return f"rs-{self.k}-{self.m}"

    @property
    def n(self) -> int:
        """Positions of an extent: k + m."""
        return self.k + self.m

    @classmethod
    def parse(cls, text: str) -> Profile:
        """The profile of that name; InvalidArgument for anything that `name` cannot have written."""
        match = _NAME.fullmatch(text)
        if match is None:
            raise InvalidArgument(f"not a profile: {text[:64]!r}", hint=_HINT)
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return self.name


def parse_profile(text: str) -> Profile:
    """The profile that `text` names; InvalidArgument otherwise."""
    return Profile.parse(text)


DEFAULT_PROFILE: Final = Profile(4, 2)
