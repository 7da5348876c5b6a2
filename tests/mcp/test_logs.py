"""Log lines: one event each, on stderr, and harmless to a terminal."""

import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from holdfast_core.settings import load_settings
from holdfast_core.telemetry import configure_logs

HOSTILE = "red \x1b[31m bell \x07 line\nbreak \u202e turned \x9b csi \ud800"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.splitlines()


def configured(log_format: str) -> None:
    configure_logs(load_settings(database_url="sqlite:////unused.db", log_format=log_format).log_format)


def test_json_is_one_object_a_line_from_us_and_from_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configured("json")
    structlog.get_logger("ours").info("job_claimed", job_id="7", reason=HOSTILE.replace("\ud800", ""))
    logging.getLogger("uvicorn.error").warning("theirs %s", "too")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("and Python's", stacklevel=1)
    events = [json.loads(line) for line in lines(capsys)]
    assert [event["level"] for event in events] == ["info", "warning", "warning"]
    assert events[0]["event"] == "job_claimed"
    assert events[0]["reason"] == HOSTILE.replace("\ud800", "")
    assert events[1]["event"] == "theirs too"
    assert events[1]["logger"] == "uvicorn.error"
    assert "and Python's" in events[2]["event"]
    assert all(event["timestamp"].endswith("Z") for event in events)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_nothing_from_outside_reaches_the_terminal_as_more_than_text(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(log_format)
    log = structlog.get_logger("ours")
    log.info(HOSTILE, key=HOSTILE, nested={HOSTILE: [HOSTILE]})
    log.info("other", **{HOSTILE: ValueError(HOSTILE)})
    logging.getLogger("theirs").warning(HOSTILE)
    written = lines(capsys)
    assert len(written) == 3
    assert all(line.isprintable() for line in written)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_is_kept_without_control_characters(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(log_format)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        structlog.get_logger("ours").exception("crashed")
    written = lines(capsys)
    assert "ValueError" in "".join(written)
    assert all(line.replace("\t", "").isprintable() for line in written)
    if log_format == "json":
        assert len(written) == 1


def test_chatter_of_libraries_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configured("console")
    for name in ("uvicorn.error", "uvicorn.access", "mcp.server.streamable_http_manager", "alembic.runtime"):
        logging.getLogger(name).info("session created")
    assert lines(capsys) == []


def test_configuring_twice_does_not_log_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configured("console")
    configured("json")
    structlog.get_logger("ours").info("once")
    assert len(lines(capsys)) == 1
