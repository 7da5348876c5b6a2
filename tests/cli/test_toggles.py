"""pause and resume: time limits, and asking again without doing it twice."""

import json
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.harness import Bench, Cli, StandIn
from holdfast_core.errors import IdempotencyStale, InvalidRequest
from holdfast_worker.client import Client

PAUSE = ("pause", "--mode", "drain", "--reason", "a test")


def problem(code: str, status: int, **more: Any) -> bytes:
    said = {"type": "x", "title": "t", "status": status, "code": code, "detail": "The server's words."}
    return json.dumps(said | more).encode()


@pytest.mark.parametrize("how", ["--for", "--until"])
def test_a_pause_with_a_time_limit_shows_when_it_ends(cli: Cli, bench: Bench, how: str) -> None:
    end = datetime.now(UTC) + timedelta(minutes=90)
    limit = "1h30m" if how == "--for" else f"{end:%Y-%m-%dT%H:%M:%SZ}"
    done = cli(*PAUSE, how, limit, "--json")
    assert done.code == 0, done.err
    at = datetime.fromisoformat(done.json["system"]["resumeAt"])
    assert abs(at - end) < timedelta(minutes=2)
    facts = dict(line.split(":", 1) for line in cli("status").out.splitlines())
    assert f"{at:%Y-%m-%dT%H:%M:%S}Z (in " in facts["Ends by itself"]
    heading, line = [row.split() for row in cli("history", "--limit", "1").out.splitlines()]
    assert line[heading.index("UNTIL")] == f"{at:%Y-%m-%dT%H:%M:%S}Z"
    assert cli(*PAUSE).code == 0
    assert "Ends by itself" not in cli("status").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--for", "59s"),
        ("--for", "8d"),
        ("--for", "90.5s"),
        ("--for", "soon"),
        ("--until", "2001-01-01T00:00:00Z"),
        ("--until", "2999-01-01T00:00:00Z"),
        ("--until", "14:30"),
        ("--for", "30m", "--until", "2999-01-01T00:00:00Z"),
        ("--idempotency-key", ""),
        ("--idempotency-key", "é"),
        ("--idempotency-key", "a\nb"),
        ("--idempotency-key", "x" * 256),
    ],
    ids=lambda arguments: " ".join(arguments)[:40].replace("\n", " "),
)
def test_a_limit_or_a_key_that_cannot_be_ends_with_2(
    cli: Cli, bench: Bench, arguments: tuple[str, ...]
) -> None:
    before = bench.client.status().system
    done = cli(*PAUSE, *arguments)
    assert (done.code, done.out) == (2, "")
    assert "Error: " in done.err
    assert bench.client.status().system == before


@pytest.mark.requirement("FR-002")
def test_a_toggle_under_a_key_is_made_once_and_its_replay_is_told(cli: Cli, bench: Bench) -> None:
    first, again = (cli(*PAUSE, "--idempotency-key", "p-1", "--json") for _ in range(2))
    assert first.json["system"] == again.json["system"]
    assert (first.json["replayed"], again.json["replayed"]) == (False, True)
    assert "Paused already, by an earlier request with this key" in again.err
    resume = ("resume", "--reason", "done", "--idempotency-key", "r-1")
    assert "Resumed (version" in cli(*resume).err
    repeated = cli(*resume)
    assert (repeated.code, "Resumed already, by an earlier request with this key" in repeated.err) == (
        0,
        True,
    )
    newest = [(event.action, event.outcome) for event in bench.client.history(limit=2).items]
    assert newest == [("resume", "changed"), ("pause", "changed")]


def test_a_replay_after_somebody_changed_the_pause_is_superseded(cli: Cli, bench: Bench) -> None:
    assert cli(*PAUSE, "--idempotency-key", "p-2").code == 0
    bench.client.resume("not now")
    stale = cli(*PAUSE, "--idempotency-key", "p-2")
    assert (stale.code, stale.out) == (8, "")
    assert "since then it has changed" in stale.err
    assert "`holdfast status` shows it." in stale.err
    assert not bench.client.status().system.workers_paused


def test_the_client_tells_which_version_a_stale_key_had_made(bench: Bench) -> None:
    version = bench.client.pause("drain", "x", idempotency_key="p-3").system.version
    bench.client.resume("y")
    with pytest.raises(IdempotencyStale) as stale:
        bench.client.pause("drain", "x", idempotency_key="p-3")
    assert stale.value.version == version
    assert stale.value.system is not None
    assert stale.value.system.version == version + 1


@pytest.mark.parametrize("verb", [PAUSE, ("resume", "--reason", "x")], ids=["pause", "resume"])
def test_a_toggle_that_is_not_confirmed_is_asked_for_again_under_the_same_key(
    cli_for: Callable[[str], Cli], stand_in: StandIn, verb: tuple[str, ...]
) -> None:
    stand_in.answer(503, problem("pause_not_confirmed", 503), retry_after="1")
    done = cli_for(stand_in.url)(*verb)
    assert done.code == 1
    assert done.err.count("Asking again under the same key.") == 2
    (key,) = {seen["idempotency-key"] for seen in stand_in.seen}
    assert len(stand_in.seen) == 3
    assert f"--idempotency-key '{key}'" in done.err
    other = cli_for(stand_in.url)(*verb)
    assert other.code == 1
    assert len({seen["idempotency-key"] for seen in stand_in.seen}) == 2, "each invocation has its own"


def test_an_answer_that_was_lost_is_asked_for_again_and_found(
    cli_for: Callable[[str], Cli], stand_in: StandIn, bench: Bench
) -> None:
    bench.client.pause("drain", "a test")
    replay = json.dumps(json.loads(bench.client.last_answer) | {"replayed": True}).encode()
    stand_in.answer_in_turn((502, b""), (200, replay))
    done = cli_for(stand_in.url)(*PAUSE)
    assert done.code == 0
    assert "Asking again under the same key." in done.err
    assert "Paused already, by an earlier request with this key" in done.err


def test_a_server_that_is_lost_after_it_took_the_toggle_leaves_it_in_doubt(
    cli_for: Callable[[str], Cli],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def take_one() -> None:
            connection, _ = listening.accept()
            listening.close()  # whoever comes again is refused
            with connection:
                connection.recv(65_536)

        server = threading.Thread(target=take_one)
        server.start()
        done = cli_for(url)(*PAUSE)
        server.join()
    assert done.code == 6
    assert done.err.count("Asking again under the same key.") == 2
    assert "It may have been carried out" in done.err.splitlines()[-1]
    assert "--idempotency-key 'cli-" in done.err


def test_a_server_that_was_never_there_is_not_asked_again(cli_for: Callable[[str], Cli]) -> None:
    done = cli_for("http://127.0.0.1:1")(*PAUSE)
    assert done.code == 6
    assert len(done.err.splitlines()) == 1


def test_a_refused_key_is_the_librarys_refusal_too(bench: Bench) -> None:
    with Client(bench.client.url, token="") as client:
        with pytest.raises(InvalidRequest):
            client.pause("drain", "x", idempotency_key="é")
        with pytest.raises(InvalidRequest):
            client.enqueue("t", {"a": float("inf")})
