from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.cli.locations import (
    Filters,
    Local,
    Remote,
    Shadows,
    Stream,
    filters_in_order,
    folder_prefix,
    one_target,
    overlap,
    parse_location,
    unsafe,
)
from reedbed.common.errors import InvalidArgument

NAMES = st.text(alphabet="ab/.!0\0é", max_size=8)


def test_what_a_text_means() -> None:
    assert parse_location("-") == Stream()
    assert parse_location("a/b") == Local(Path("a/b"))
    assert parse_location("a/b/") == Local(Path("a/b"), folder=True)
    assert parse_location("./-") == Local(Path("-"))
    assert parse_location("reedbed://data") == Remote("data", "")
    assert parse_location("reedbed://data/") == Remote("data", "")
    assert parse_location("reedbed://data//a%20?#/") == Remote("data", "/a%20?#/")


@pytest.mark.parametrize(
    "text", ["", "s3://data/a", "file:///a", "reedbed://", "reedbed://A/b", "reedbed://data/" + 1025 * "k", "a\0b"]
)
def test_what_is_no_location(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_location(text)


def test_the_text_of_a_location_reads_back() -> None:
    for text in ("reedbed://data/a\n//..", "reedbed://data/", "x/y", "-"):
        assert str(parse_location(text)) == text


def test_a_single_source_keeps_its_name_in_a_folder(tmp_path: Path) -> None:
    source = Remote("data", "a/b.txt")
    assert one_target(source, Local(tmp_path)) == Local(tmp_path / "b.txt")
    assert one_target(source, Local(tmp_path / "new", folder=True)) == Local(tmp_path / "new" / "b.txt")
    assert one_target(source, Local(tmp_path / "new")) == Local(tmp_path / "new")
    assert one_target(Local(Path("x/b.txt")), Remote("data", "")) == Remote("data", "b.txt")
    assert one_target(Local(Path("x/b.txt")), Remote("data", "c/")) == Remote("data", "c/b.txt")
    assert one_target(Local(Path("x/b.txt")), Remote("data", "c")) == Remote("data", "c")
    assert one_target(source, Stream()) == Stream()


@pytest.mark.parametrize("key", ["..", "a/..", ".", "a/\0", "/", "x" * 256])
def test_no_single_object_gets_a_local_name_that_is_not_safe(key: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        one_target(Remote("data", key), Local(tmp_path))
    with pytest.raises(InvalidArgument):
        one_target(Remote("data", key), Local(tmp_path / "new", folder=True))


def test_standard_input_has_no_name_to_give(tmp_path: Path) -> None:
    for target in (Remote("data", ""), Remote("data", "a/")):
        with pytest.raises(InvalidArgument):
            one_target(Stream(), target)
    assert one_target(Stream(), Remote("data", "a")) == Remote("data", "a")


@pytest.mark.parametrize(
    "key", ["", "/a", "/", "a//b", "a/", "..", "a/../b", "./a", "a/.", "a\0", "x" * 256, "a/" + "é" * 128]
)
def test_keys_that_no_local_path_can_hold(key: str) -> None:
    assert unsafe(key)


@pytest.mark.parametrize("key", ["a", "a/b", "...", ".a", "a..", "x" * 255, "a\nb", "\x1b[2J", "~", "-", "C:\\a"])
def test_keys_that_a_local_path_can_hold(key: str) -> None:
    assert unsafe(key) is None


@given(NAMES)
def test_what_is_safe_stays_below_the_folder(key: str) -> None:
    if unsafe(key) is None:
        path = Path("/top") / key
        assert str(path) == f"/top/{key}"
        assert path.resolve().is_relative_to("/top")


@given(st.sets(st.text(alphabet="ab/!0", min_size=1, max_size=6), max_size=30))
@settings(max_examples=150)
def test_shadows_are_the_keys_below_another_key(keys: set[str]) -> None:
    ordered = sorted(keys, key=lambda key: key.encode())
    shadows = Shadows()
    found = {key for key in ordered if shadows.above(key) is not None}
    assert found == {key for key in keys if any(key.startswith(other + "/") for other in keys)}


def test_a_shadow_names_the_key_above() -> None:
    shadows = Shadows()
    assert [shadows.above(key) for key in ("a", "a!", "a!/x", "a/b", "a/b/c", "b/a")] == [
        None,
        None,
        "a!",
        "a",
        "a",
        None,
    ]


@given(NAMES, NAMES, NAMES)
def test_trees_overlap_exactly_when_they_can_share_a_key(one: str, other: str, key: str) -> None:
    first, second = Remote("data", one), Remote("data", other)
    shared = key.startswith(folder_prefix(first)) and key.startswith(folder_prefix(second))
    assert not (shared and not overlap(first, second))
    if overlap(first, second):
        longest = max(folder_prefix(first), folder_prefix(second), key=len)
        assert longest.startswith(folder_prefix(first))
        assert longest.startswith(folder_prefix(second))
    assert not overlap(first, Remote("other", other))


def test_prefixes_that_only_begin_alike_do_not_overlap() -> None:
    assert not overlap(Remote("data", "a"), Remote("data", "ab"))
    assert overlap(Remote("data", "a"), Remote("data", "a/"))
    assert overlap(Remote("data", ""), Remote("data", "a"))


def test_the_last_pattern_that_matches_decides() -> None:
    assert Filters().match("anything")
    python_only = Filters([(False, "*"), (True, "*.py")])
    assert python_only.match("a/b.py")
    assert not python_only.match("a/b.c")
    assert not Filters([(True, "*.py"), (False, "*")]).match("b.py")
    assert not Filters([(False, "secret/*")]).match("secret/a/b")
    assert Filters([(False, "A*")]).match("a")


def test_filters_are_read_in_their_order_on_the_command_line() -> None:
    arguments = ["-r", "x", "--exclude", "*", "--include=*.py", "--exclude", "--include", "--", "--include", "y"]
    filters = filters_in_order(arguments)
    assert filters == Filters(((False, "*"), (True, "*.py"), (False, "--include")))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["*", "a*", "*b", "a/*", "[ab]"])), max_size=5), NAMES)
def test_filters_against_the_rule_read_backwards(patterns: list[tuple[bool, str]], name: str) -> None:
    from fnmatch import fnmatchcase

    decided = next((include for include, pattern in reversed(patterns) if fnmatchcase(name, pattern)), True)
    assert Filters(patterns).match(name) == decided
