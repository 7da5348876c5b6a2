"""Durations, escapes and times: the small readers and writers of the command line."""

import json
from datetime import UTC, datetime, timedelta, timezone

import click
import pytest

from holdfast_worker.terminal.options import DURATION
from holdfast_worker.terminal.text import ago, escaped, json_for_terminal, moment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1_800),
        ("2h", 7_200),
        ("1h30m", 5_400),
        ("1.5h", 5_400),
        ("1d", 86_400),
        (" 5S ", 5),
    ],
)
def test_a_duration_ends_in_its_unit(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-5s", "0s", "5 s", "1w", "400d", "1e3s", "five minutes", "٣s", "1..5s"]
)
def test_what_is_no_duration_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


def test_control_characters_and_marks_of_direction_are_escaped_and_letters_are_not() -> None:
    assert escaped("a\x00\n\t\x1b[1m\x7f\x9b\u202eb\u2028\ud800") == (
        "a\\x00\\n\\t\\x1b[1m\\x7f\\x9b\\u202eb\\u2028\\ud800"
    )
    assert escaped("täglich → 日本 😀 [red]") == "täglich → 日本 😀 [red]"


def test_json_for_a_terminal_means_the_same() -> None:
    value = {"text": "a\x9b\u202e\x7f\nb → 😀"}
    shown = json_for_terminal(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(shown) == value
    assert not any(unsafe in shown for unsafe in "\x9b\u202e\x7f")


def test_times_are_shown_in_utc() -> None:
    assert moment(datetime(2026, 2, 20, 2, 0, tzinfo=timezone(timedelta(hours=1)))) == "2026-02-20T01:00:00Z"
    assert moment(datetime(2026, 2, 20, tzinfo=UTC)) == "2026-02-20T00:00:00Z"
    assert moment(None) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59, "59 s"), (60, "1 min"), (7_200, "2 h"), (172_800, "2 d")]
)
def test_spans_are_told_in_one_unit(seconds: float, text: str) -> None:
    assert ago(seconds) == text
