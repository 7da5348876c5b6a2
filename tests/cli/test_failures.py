"""What goes wrong between the command line and a server: one line, the right exit code, never a traceback."""

import json
import socket
from collections.abc import Callable, Generator

import pytest

from cli.harness import Cli, StandIn
from support.servers import start_server


@pytest.fixture
def nowhere() -> Generator[str]:
    """A URL at which nothing listens, nor will while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def problem(code: str, status: int, detail: str) -> bytes:
    return json.dumps(
        {"type": f"/problems/{code}", "title": "No", "status": status, "code": code, "detail": detail}
    ).encode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "--json"),
        ("pause", "--mode", "drain", "--reason", "x", "--wait"),
        ("wait", "--for", "drained"),
        ("jobs",),
        ("enqueue", "--type", "t"),
        ("requeue", "--stale", "--reason", "x"),
    ],
    ids=" ".join,
)
def test_an_unreachable_server_ends_with_6_and_how_to_start_one(
    cli_for: Callable[[str], Cli], nowhere: str, arguments: tuple[str, ...]
) -> None:
    done = cli_for(nowhere)(*arguments)
    assert (done.code, done.out) == (6, "")
    assert len(done.err.splitlines()) == 1
    assert nowhere in done.err
    assert "holdfast serve" in done.err
    assert "HOLDFAST_URL" in done.err


def test_a_server_that_stays_away_ends_a_wait_with_6(cli_for: Callable[[str], Cli], sqlite_url: str) -> None:
    with start_server(sqlite_url) as server:
        cli = cli_for(server.url)
        assert cli("pause", "--mode", "drain", "--reason", "x").code == 0
        waiting = cli.start("wait", "--for", "running", "--timeout", "8s", "--json")
        waiting.said("Waiting for a resume")
        server.stop()
        done = waiting.ended()
    assert done.code == 6
    assert done.out == ""


@pytest.mark.parametrize(("status", "code"), [(401, "not_authenticated"), (403, "not_allowed")])
def test_not_being_allowed_ends_with_7(
    cli_for: Callable[[str], Cli], stand_in: StandIn, status: int, code: str
) -> None:
    stand_in.answer(status, problem(code, status, "Viewers may not pause."))
    done = cli_for(stand_in.url)("pause", "--mode", "drain", "--reason", "x")
    assert (done.code, done.out) == (7, "")
    assert "Viewers may not pause." in done.err
    assert "HOLDFAST_TOKEN" in done.err


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (422, "idempotency_key_reused", 2),
        (409, "something_newer", 3),
        (409, "idempotency_stale", 8),  # known: somebody has changed the pause since the first try
        (503, "pause_not_confirmed", 1),
        (503, "something_newer", 1),
        (500, "internal_error", 1),
        (429, "too_many_requests", 1),
    ],
)
def test_a_refusal_ends_by_its_code_or_if_that_is_new_to_us_by_its_status(
    cli_for: Callable[[str], Cli], stand_in: StandIn, status: int, code: str, exit_code: int
) -> None:
    stand_in.answer(status, problem(code, status, "The server's own words."), Retry_After="1")
    done = cli_for(stand_in.url)("pause", "--mode", "drain", "--reason", "x")
    assert done.code == exit_code
    assert "The server's own words." in done.err
    assert "Traceback" not in done.err


def test_the_servers_words_cannot_move_the_cursor(cli_for: Callable[[str], Cli], stand_in: StandIn) -> None:
    stand_in.answer(409, problem("not_paused", 409, "a\x1b[2J\nb"))
    done = cli_for(stand_in.url)("resume", "--reason", "x")
    assert done.code == 3
    assert "a\\x1b[2J\\nb" in done.err


@pytest.mark.parametrize(
    ("status", "body", "exit_code"),
    [
        (200, b"<html>It works!</html>", 1),
        (200, b"", 1),
        (200, b'{"jobs": []}', 1),
        (404, b"Not here", 1),
        (302, b"", 1),
        (401, b"Basic, please", 7),
        (502, b"Bad gateway", 6),
    ],
)
def test_what_is_no_holdfast_server_is_said_to_be_none(
    cli_for: Callable[[str], Cli], stand_in: StandIn, status: int, body: bytes, exit_code: int
) -> None:
    stand_in.answer(status, body, Location="https://example.com/")
    done = cli_for(stand_in.url)("status")
    assert (done.code, done.out) == (exit_code, "")
    assert len(done.err.splitlines()) == 1
    assert stand_in.url in done.err


def test_the_token_is_sent_and_the_option_wins(cli_for: Callable[[str], Cli], stand_in: StandIn) -> None:
    stand_in.answer(401, b"")
    cli = cli_for(stand_in.url)
    cli("status", HOLDFAST_TOKEN="from-environment")
    cli("status", "--token", "from-option", HOLDFAST_TOKEN="from-environment")
    cli("status")
    assert [seen.get("authorization") for seen in stand_in.seen] == [
        "Bearer from-environment",
        "Bearer from-option",
        None,
    ]


def test_the_url_of_the_option_wins(cli_for: Callable[[str], Cli], stand_in: StandIn, nowhere: str) -> None:
    stand_in.answer(401, b"")
    assert cli_for(nowhere)("status", "--url", stand_in.url + "/").code == 7


def test_a_proxy_of_the_environment_is_not_asked_for_this_host(
    cli_for: Callable[[str], Cli], stand_in: StandIn, nowhere: str
) -> None:
    stand_in.answer(401, b"")
    assert (
        cli_for(stand_in.url)("status", HTTP_PROXY=nowhere, http_proxy=nowhere, ALL_PROXY=nowhere).code == 7
    )


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8790", "ftp://x", "http://", "http://x:99999", "http://[::1", "http://x?y=1", "http://a b/"],
)
def test_an_address_that_is_none_ends_with_2(cli_for: Callable[[str], Cli], url: str) -> None:
    done = cli_for("http://127.0.0.1:1")("status", "--url", url)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_a_token_that_is_none_ends_with_2_and_is_not_shown(cli_for: Callable[[str], Cli]) -> None:
    done = cli_for("http://127.0.0.1:1")("status", "--token", "geheim\nX-Evil: 1")
    assert done.code == 2
    assert "geheim" not in done.err


def test_a_password_in_the_address_is_not_shown(cli_for: Callable[[str], Cli], nowhere: str) -> None:
    done = cli_for("http://127.0.0.1:1")("status", "--url", nowhere.replace("//", "//user:geheim@"))
    assert done.code == 6
    assert "geheim" not in done.err


def test_a_closed_pipe_is_no_traceback(cli_for: Callable[[str], Cli], stand_in: StandIn) -> None:
    stand_in.answer(200, b'{"items": [], "nextCursor": null, "more": "' + b"x" * 300_000 + b'"}')
    running = cli_for(stand_in.url).start("jobs", "--json")
    running.hang_up()
    assert "Traceback" not in running.ended().err
