"""Endpoints, options and URLs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reedbed
from reedbed.client.options import Options, resolve_endpoint
from reedbed.client.urls import format_url, is_url, parse_url
from reedbed.common.errors import InvalidArgument


def test_where_an_endpoint_comes_from() -> None:
    assert resolve_endpoint("host:1", {"REEDBED_ENDPOINT": "other:2"}) == "host:1"
    assert resolve_endpoint(None, {"REEDBED_ENDPOINT": "other:2"}) == "other:2"
    assert resolve_endpoint(None, {"REEDBED_ENDPOINT": ""}) == "127.0.0.1:7300"
    assert resolve_endpoint(None, {}) == "127.0.0.1:7300"
    assert resolve_endpoint("host") == "host:7300"
    assert resolve_endpoint("[::1]") == "[::1]:7300"
    assert resolve_endpoint("[::1]:9") == "[::1]:9"
    assert resolve_endpoint("unix:/a:b") == "unix:/a:b"


@pytest.mark.parametrize(
    "text", ["", ":1", "h:", "h:0", "h:65536", "h:x", "http://h:1", "a b:1", "h:1:2", "unix:", 5, b"h:1"]
)
def test_what_is_no_endpoint(text: Any) -> None:
    with pytest.raises(InvalidArgument):
        resolve_endpoint(text, {})


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": "1"},
        {"timeout": float("nan")},
        {"timeout": True},
        {"concurrency": 0},
        {"window": 1.5},
        {"tls": "x"},
    ],
)
def test_what_is_no_option(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Options("h:1", **settings)


@given(st.text(min_size=1, max_size=60).filter(lambda key: key.isprintable()))
def test_keys_in_urls_are_raw(key: str) -> None:
    assert parse_url(format_url("data", key)) == ("data", key)


@pytest.mark.parametrize("key", ["a%20b", "a?b#c", "//x//", "x/", "../..", "a\nb\0"])
def test_nothing_in_a_url_is_decoded(key: str) -> None:
    assert parse_url(f"reedbed://data/{key}").key == key


def test_urls_of_buckets_and_what_is_no_url() -> None:
    assert parse_url("reedbed://data") == parse_url("reedbed://data/") == ("data", "")
    assert str(parse_url("reedbed://data/k")) == "reedbed://data/k"
    assert not is_url("/local/path")
    for text in (
        "s3://data/k",
        "data/k",
        "reedbed://",
        "reedbed://A/k",
        "reedbed:///k",
        "reedbed://data/" + "x" * 1025,
        5,
    ):
        with pytest.raises(InvalidArgument):
            parse_url(text)  # type: ignore[arg-type]


def test_public_names() -> None:
    for name in reedbed.__all__:
        assert getattr(reedbed, name) is not None
        assert name in dir(reedbed)
    assert callable(reedbed.aio.connect)
    with pytest.raises(AttributeError):
        reedbed.nothing  # type: ignore[attr-defined]  # noqa: B018
