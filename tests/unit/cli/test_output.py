from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.cli.output import json_text, safe_text, say, show_error, size_text, table_lines
from reedbed.common.errors import NotFound


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 50, "1.0 PiB"),
        (5000 << 50, "5000.0 PiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


def test_a_table_keeps_its_columns() -> None:
    lines = table_lines(("NAME", "SIZE"), [("a", "5"), ("longer", "12345")], right=[1])
    assert lines == ["NAME     SIZE", "a           5", "longer  12345"]


@given(st.text())
def test_no_text_can_steer_a_terminal(text: str) -> None:
    assert safe_text(text).isprintable()


@given(st.text(st.characters()))
def test_json_holds_any_name_and_is_safe_to_show(name: str) -> None:
    text = json_text({"key": name})
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == {"key": name}


def test_json_times_are_rfc_3339() -> None:
    assert json_text(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)) == '"2026-01-02T03:04:05.000006+00:00"'


def test_all_text_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\n\x1b]0;owned\x07")
    assert capsys.readouterr().out == "a\\n\\x1b]0;owned\\x07\n"


def test_an_error_is_one_line_or_one_json_value(capsys: pytest.CaptureFixture[str]) -> None:
    error = NotFound("no object 'a\n'", where="data", hint="Look elsewhere")
    show_error(error)
    assert capsys.readouterr() == ("", "reedbed: NotFound: no object 'a\\n' (data). Look elsewhere\n")
    show_error(error, as_json=True)
    out, err = capsys.readouterr()
    assert not out
    assert json.loads(err) == {
        "error": {
            "code": "NotFound",
            "what": "no object 'a\n'",
            "where": "data",
            "hint": "Look elsewhere",
            "retryable": False,
            "maybe_applied": False,
        }
    }
