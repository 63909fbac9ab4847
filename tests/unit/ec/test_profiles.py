from __future__ import annotations

import pytest

from reedbed.common.errors import InvalidArgument
from reedbed.ec.profiles import DEFAULT_PROFILE, Profile, parse_profile


def test_every_profile_is_named_and_parsed() -> None:
    for k in range(1, 33):
        for m in range(1, 9):
            profile = Profile(k, m)
            assert profile.n == k + m
            assert str(profile) == profile.name == f"rs-{k}-{m}"
            assert parse_profile(profile.name) == Profile.parse(profile.name) == profile
    assert DEFAULT_PROFILE.name == "rs-4-2"


@pytest.mark.parametrize(
    "text",
    ["", "rs", "rs-4", "rs-4-", "rs-0-2", "rs-4-0", "rs-33-2", "rs-4-9", "rs-4-10", "rs-04-2", "rs-4-02", "RS-4-2"]
    + ["rs-4-2 ", " rs-4-2", "rs-4-2\n", "rs-+4-2", "rs--4-2", "rs-٤-2", "lrc-4-2", "rs-4-2-1", "rs-100-2", "rs_4_2"],
)
def test_other_texts_are_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_profile(text)
    assert "rs-4-2" in error.value.hint


@pytest.mark.parametrize(("k", "m"), [(0, 2), (33, 1), (4, 0), (4, 9), (-1, 2)])
def test_numbers_off_limits_are_refused(k: int, m: int) -> None:
    with pytest.raises(InvalidArgument):
        Profile(k, m)
