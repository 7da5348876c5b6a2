"""`holdfast maintain`: what becomes of the pause, however the wait and the command end."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli.harness import Bench, Cli, Result
from holdfast_core.schemas import ControlEvent, System
from holdfast_worker.cli import main
from holdfast_worker.client import Client
from holdfast_worker.terminal import own_pause
from support.servers import start_server

MAINTAIN = ("maintain", "--reason", "the upgrade")
#: Says that it runs, and with which code to end.
CODE = "import sys; print('ran', flush=True); sys.exit(int(sys.argv[1]))"
#: Says that it runs, and ends once it is asked to, with 0.
UNTIL_ASKED = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.signal(signal.SIGINT, lambda *_: None)
print("ran", flush=True)
while True:
    signal.pause()
"""


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", code, *arguments)


def system(bench: Bench) -> System:
    return bench.client.status().system


def toggles(bench: Bench, count: int) -> list[ControlEvent]:
    """The newest events, oldest first."""
    return bench.client.history(limit=count).items[::-1]


def test_it_pauses_waits_for_the_drain_runs_the_command_and_resumes(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    before = system(bench).version
    looks = """
import json, os, urllib.request
with urllib.request.urlopen(os.environ["HOLDFAST_URL"] + "/api/system/worker-pause") as answer:
    said = json.load(answer)
print(said["system"]["version"], said["metrics"]["safeToUpgrade"])
"""
    running = cli.start(*MAINTAIN, *python(looks))
    running.said("1 running")
    assert system(bench).reason == "the upgrade"
    bench.finish(job)
    done = running.ended()
    assert (done.code, done.out) == (0, f"{before + 1} True\n")
    paused, resumed = toggles(bench, 2)
    assert (paused.action, paused.mode, paused.version, paused.reason) == (
        "pause",
        "drain",
        before + 1,
        "the upgrade",
    )
    assert (resumed.action, resumed.version, resumed.force_resume) == ("resume", before + 2, False)
    assert "the upgrade" in (resumed.reason or "")


def test_in_quiesce_it_runs_once_all_that_runs_is_parked(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    running = cli.start(*MAINTAIN, "--mode", "quiesce", *python(CODE, "0"))
    running.said("0 of 1 parked")
    bench.park(job)
    done = running.ended()
    assert (done.code, done.out) == (0, "ran\n")
    assert "1 parked" in done.err, "the resume warns of what it lets go on"
    assert not system(bench).workers_paused
    assert toggles(bench, 1)[0].force_resume, "that parked jobs go on is what the mode is for"
    bench.finish(job)


def test_the_command_has_the_terminal_and_the_address(cli_for: Callable[[str], Cli], bench: Bench) -> None:
    looks = """
import os, sys
print(input(), os.environ["HOLDFAST_URL"], os.getpgrp() == os.getpgid(os.getppid()))
print("words", file=sys.stderr)
"""
    url = bench.client.url
    cli = cli_for("http://127.0.0.1:9")
    done = cli(*MAINTAIN, "--url", url, *python(looks), stdin="typed")
    assert (done.code, done.out) == (0, f"typed {url} True\n")
    assert "words\n" in done.err


def test_a_long_reason_is_cut_for_the_resume(cli: Cli, bench: Bench) -> None:
    done = cli("maintain", "--reason", "x" * 1_000, *python(CODE, "0"))
    assert done.code == 0, done.err
    reason = toggles(bench, 1)[0].reason or ""
    assert (len(reason), reason.startswith("maintenance done: xx")) == (1_000, True)


def test_a_command_that_fails_leaves_the_pause_and_says_so_loudly(cli: Cli, bench: Bench) -> None:
    done = cli(*MAINTAIN, *python(CODE, "3"))
    assert (done.code, done.out) == (1, "ran\n")
    assert "ended with 3" in done.err
    assert "WORKERS STAY PAUSED" in done.err
    assert "holdfast resume" in done.err
    assert system(bench).workers_paused


def test_a_command_that_a_signal_ends_has_failed(cli: Cli, bench: Bench) -> None:
    done = cli(*MAINTAIN, *python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert done.code == 1
    assert "by signal 9" in done.err
    assert system(bench).workers_paused


def test_a_command_that_a_signal_to_the_verb_ends_leaves_the_pause(cli: Cli, bench: Bench) -> None:
    running = cli.start(*MAINTAIN, *python("import time; print('ran', flush=True); time.sleep(60)"))
    running.wrote("ran")
    os.kill(running.pid, signal.SIGTERM)
    done = running.ended()
    assert done.code == 1
    assert "by signal 15. WORKERS STAY PAUSED" in done.err
    assert system(bench).workers_paused


def test_a_command_that_is_not_there_pauses_nothing(cli: Cli, bench: Bench, tmp_path: Path) -> None:
    before = system(bench)
    done = cli(*MAINTAIN, "--", "no-such-program-anywhere")
    assert done.code == 2
    assert "no-such-program-anywhere" in done.err
    script = tmp_path / "broken"
    script.write_bytes(b"\x7fELF, not really")
    script.chmod(0o755)
    assert system(bench) == before
    done = cli(*MAINTAIN, "--", str(script))
    assert (done.code, "cannot be run" in done.err) == (1, True)
    assert not system(bench).workers_paused, "nothing has been run, so nothing stays paused"


@pytest.mark.parametrize("within", [(), ("--within",)], ids=["alone", "within"])
def test_a_pause_that_is_there_is_left_alone(cli: Cli, bench: Bench, within: tuple[str, ...]) -> None:
    bench.client.pause("drain", "somebody else's")
    before = system(bench)
    done = cli(*MAINTAIN, *within, *python(CODE, "0"))
    assert (done.code, done.out) == ((0, "ran\n") if within else (3, ""))
    assert ("somebody else's" in done.err) is not bool(within)
    assert system(bench) == before


def test_within_a_pause_that_is_not_there_is_refused(cli: Cli, bench: Bench) -> None:
    before = system(bench)
    done = cli(*MAINTAIN, "--within", *python(CODE, "0"))
    assert (done.code, done.out) == (3, "")
    assert "not paused" in done.err
    assert system(bench) == before


def undone(done: Result, bench: Bench) -> None:
    assert done.out == "", "the command has run"
    assert "Undone" in done.err
    last = toggles(bench, 1)[0]
    assert (last.action, last.outcome) == ("resume", "changed")
    assert "not begun" in (last.reason or "")
    assert not system(bench).workers_paused


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda sign: sign.name)
def test_interrupted_before_the_command_it_undoes_its_own_pause(
    cli: Cli, bench: Bench, sign: signal.Signals
) -> None:
    bench.run_job()
    running = cli.start(*MAINTAIN, *python(CODE, "0"))
    running.said("1 running")
    os.kill(running.pid, sign)
    done = running.ended()
    assert done.code == 1
    undone(done, bench)


def test_time_that_is_up_ends_it_with_4_and_undoes_the_pause(cli: Cli, bench: Bench) -> None:
    bench.run_job()
    done = cli(*MAINTAIN, "--timeout", "1s", *python(CODE, "0"))
    assert done.code == 4
    assert "1 running" in done.err
    assert "stays" not in done.err
    undone(done, bench)


def test_stale_jobs_end_it_with_5_and_undo_the_pause(cli: Cli, bench: Bench) -> None:
    bench.stale_job()
    done = cli(*MAINTAIN, *python(CODE, "0"))
    assert done.code == 5
    assert "holdfast requeue --stale" in done.err
    undone(done, bench)


@pytest.mark.parametrize("change", ["resume", "another pause"])
def test_a_pause_that_somebody_changed_while_it_waited_is_theirs(cli: Cli, bench: Bench, change: str) -> None:
    bench.run_job()
    running = cli.start(*MAINTAIN, *python(CODE, "0"))
    running.said("1 running")
    theirs = bench.client.resume("not now") if change == "resume" else bench.client.pause("drain", "mine now")
    done = running.ended()
    assert (done.code, done.out) == (8, "")
    assert system(bench) == theirs.system


@pytest.mark.parametrize("change", ["resume", "another pause"])
def test_a_pause_that_somebody_changed_while_the_command_ran_is_theirs(
    cli: Cli, bench: Bench, change: str
) -> None:
    running = cli.start(*MAINTAIN, *python(UNTIL_ASKED))
    running.wrote("ran")
    theirs = bench.client.resume("not now") if change == "resume" else bench.client.pause("drain", "mine now")
    os.kill(running.pid, signal.SIGTERM)  # handed on to the command, which ends with 0
    done = running.ended()
    assert done.code == 8
    assert "somebody changed the pause" in done.err
    assert system(bench) == theirs.system


def test_a_signal_reaches_the_command_and_its_end_decides(cli: Cli, bench: Bench) -> None:
    running = cli.start(*MAINTAIN, *python(UNTIL_ASKED))
    running.wrote("ran")
    os.kill(running.pid, signal.SIGINT)  # the terminal sends it to the command itself
    os.kill(running.pid, signal.SIGTERM)
    done = running.ended()
    assert done.code == 0
    assert not system(bench).workers_paused


def test_a_server_that_the_command_restarts_is_waited_for(
    cli_for: Callable[[str], Cli], sqlite_url: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    waits = "import os, sys, time\nprint('ran', flush=True)\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)"
    with start_server(sqlite_url) as first:
        running = cli_for(first.url).start(*MAINTAIN, *python(waits, str(go)))
        running.wrote("ran")
        first.stop()
        go.touch()
        running.said("Waiting for the server, to resume")
    with (
        start_server(sqlite_url, "--port", first.url.rsplit(":", 1)[1]) as second,
        Client(second.url, token="") as client,
    ):
        assert running.ended().code == 0
        assert not client.status().system.workers_paused


def test_a_signal_while_the_resume_waits_says_that_workers_stay_paused(
    cli_for: Callable[[str], Cli], sqlite_url: str
) -> None:
    with start_server(sqlite_url) as server:
        running = cli_for(server.url).start(*MAINTAIN, *python(UNTIL_ASKED))
        running.wrote("ran")
        server.stop()
        os.kill(running.pid, signal.SIGTERM)  # ends the command
        running.said("Waiting for the server, to resume")
        os.kill(running.pid, signal.SIGTERM)
        done = running.ended()
    assert done.code == 1
    assert "The command succeeded, but WORKERS STAY PAUSED" in done.err
    assert "holdfast resume" in done.err


def test_a_pause_that_cannot_be_undone_is_not_passed_over(
    cli_for: Callable[[str], Cli], sqlite_url: str
) -> None:
    with start_server(sqlite_url) as server, Client(server.url, token="") as client:
        Bench(client).run_job()
        running = cli_for(server.url).start(*MAINTAIN, *python(CODE, "0"))
        running.said("1 running")
        server.kill()
        running.said("Still waiting")
        running.interrupt()
        running.said("Waiting for the server, to resume")
        running.interrupt()
        done = running.ended()
    assert (done.code, done.out) == (1, "")
    assert "WORKERS STAY PAUSED: undoing the pause was interrupted" in done.err
    assert "holdfast resume" in done.err


def test_where_early_resumes_are_refused_its_own_pause_is_undone_all_the_same(
    cli_for: Callable[[str], Cli], sqlite_url: str
) -> None:
    with (
        start_server(sqlite_url, HOLDFAST_REQUIRE_FORCE_RESUME="true") as server,
        Client(server.url, token="") as client,
    ):
        bench = Bench(client)
        job = bench.run_job()
        done = cli_for(server.url)(*MAINTAIN, "--timeout", "1s", *python(CODE, "0"))
        assert done.code == 4
        undone(done, bench)
        bench.park(job)
        done = cli_for(server.url)(*MAINTAIN, "--mode", "quiesce", *python(CODE, "0"))
        assert (done.code, system(bench).workers_paused) == (0, False)


def test_a_server_that_does_not_come_back_ends_it_with_6_and_the_way_out(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own_pause, "BACK_SECONDS", 0.5)
    stops = """
import contextlib, os, signal, socket, sys
os.kill(int(sys.argv[1]), signal.SIGKILL)
with contextlib.suppress(ConnectionRefusedError):
    while True:
        with contextlib.suppress(ConnectionResetError):
            socket.create_connection(("127.0.0.1", int(sys.argv[2]))).close()
"""
    with start_server(sqlite_url) as server:
        port = str(urlsplit(server.url).port)
        command = python(stops, str(server.process.pid), port)
        code = main([*MAINTAIN, "--url", server.url, *command], standalone_mode=False)
        server.kill()  # the command has, already
    said = capfd.readouterr().err
    assert code == 6
    assert "The command succeeded, but WORKERS STAY PAUSED" in said
    assert "holdfast resume" in said


def test_a_server_that_is_not_there_ends_it_with_6_and_nothing_is_run(cli_for: Callable[[str], Cli]) -> None:
    done = cli_for("http://127.0.0.1:9")(*MAINTAIN, *python(CODE, "0"))
    assert (done.code, done.out) == (6, "")
