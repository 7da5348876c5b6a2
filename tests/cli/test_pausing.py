"""pause, resume and wait: exit codes for every way in which they can end."""

import os
import signal
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from cli.harness import Bench, Cli
from support.servers import start_server

PAUSE = ("pause", "--mode", "drain", "--reason", "test")
PAUSE_AND_WAIT = (*PAUSE, "--wait", "--timeout", "60s")


def test_pause_and_resume_end_with_0_and_say_the_version(cli: Cli, bench: Bench) -> None:
    before = bench.client.status().system.version
    paused = cli("pause", "--mode", "quiesce", "--reason", "Rolling API migration")
    assert paused.code == 0
    assert f"(version {before + 1})" in paused.err
    assert "Paused (Quiesce)" in paused.out
    resumed = cli("resume", "--reason", "done")
    assert resumed.code == 0
    assert f"Resumed (version {before + 2})." in resumed.err
    assert "Warning" not in resumed.err
    newest = bench.client.history(limit=2).items
    assert [(event.action, event.reason) for event in newest] == [
        ("resume", "done"),
        ("pause", "Rolling API migration"),
    ]


def test_the_same_pause_again_says_so(cli: Cli, bench: Bench) -> None:
    version = bench.client.pause("drain", "test").system.version
    done = cli(*PAUSE)
    assert done.code == 0
    assert f"Paused already, just so (version {version})." in done.err


def test_an_unexpected_version_is_refused(cli: Cli, bench: Bench) -> None:
    version = bench.client.status().system.version
    done = cli(*PAUSE, "--expected-version", str(version + 5))
    assert done.code == 3
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert cli(*PAUSE, "--expected-version", str(version)).code == 0
    assert cli("resume", "--reason", "x", "--expected-version", str(version)).code == 3
    assert bench.client.status().system.workers_paused


def test_a_resume_before_the_drain_ended_warns(cli: Cli, bench: Bench) -> None:
    bench.run_job()
    bench.client.pause("drain", "test")
    done = cli("resume", "--reason", "in a hurry", "--force", "--json")
    assert done.code == 0
    assert "Warning: " in done.err
    assert done.json["warning"] in done.err
    assert bench.client.history(limit=1).items[0].force_resume is True


def test_a_resume_of_a_running_system_is_refused(cli: Cli, bench: Bench) -> None:
    done = cli("resume", "--reason", "too early")
    assert (done.code, done.out) == (3, "")
    assert "not paused" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("pause", "--mode", "drain"),
        ("pause", "--reason", "x"),
        ("pause", "--mode", "stop", "--reason", "x"),
        ("pause", "--mode", "drain", "--reason", "   "),
        ("pause", "--mode", "drain", "--reason", "x" * 1_001),
        ("pause", "--mode", "drain", "--reason", "x", "--timeout", "30s"),
        ("pause", "--mode", "drain", "--reason", "x", "--wait", "--timeout", "30"),
        ("pause", "--mode", "drain", "--reason", "x", "--expected-version", "0"),
        ("resume",),
        ("resume", "--reason", ""),
        ("wait",),
        ("wait", "--for", "dinner"),
        ("wait", "--for", "drained", "--since-version", "3"),
    ],
    ids=" ".join,
)
def test_bad_input_ends_with_2_and_changes_nothing(
    cli: Cli, bench: Bench, arguments: tuple[str, ...]
) -> None:
    before = bench.client.status().system.version
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Error: " in done.err
    assert bench.client.status().system.version == before


def test_waiting_ends_with_0_once_the_last_job_is_done(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    bench.enqueue(count=2)
    waiting = cli.start(*PAUSE_AND_WAIT)
    waiting.said("1 running, 0 stale, 2 queued")
    bench.finish(job)
    done = waiting.ended()
    assert done.code == 0
    assert "0 running, 0 stale, 2 queued" in done.err
    assert done.err.endswith("Safe to upgrade.\n")
    assert "Safe to upgrade: yes" in done.out
    assert bench.client.status().metrics.queued == 2


def test_waiting_in_quiesce_ends_with_0_once_all_is_parked(cli: Cli, bench: Bench) -> None:
    job = bench.run_job()
    waiting = cli.start("pause", "--mode", "quiesce", "--reason", "test", "--wait", "--json")
    waiting.said("0 of 1 parked")
    bench.park(job)
    done = waiting.ended()
    assert done.code == 0
    assert done.json["reached"] is True
    assert done.json["metrics"]["isParked"] is True
    assert "Safe to upgrade" not in done.err


def test_waiting_on_an_empty_system_ends_at_once(cli: Cli, bench: Bench) -> None:
    assert cli(*PAUSE_AND_WAIT).code == 0


def test_time_up_ends_with_4_and_the_pause_stays(cli: Cli, bench: Bench) -> None:
    bench.run_job()
    done = cli(*PAUSE, "--wait", "--timeout", "1s", "--json")
    assert done.code == 4
    assert "1 running" in done.err.splitlines()[-1]
    assert done.json["reached"] is False
    assert bench.client.status().system.workers_paused


def test_only_stale_jobs_end_with_5_and_name_the_way_out(cli: Cli, bench: Bench) -> None:
    job = bench.stale_job()
    done = cli(*PAUSE_AND_WAIT)
    assert done.code == 5
    assert "1 job is stale" in done.err
    assert "holdfast requeue --stale" in done.err
    assert cli("requeue", "--stale", "--reason", "its worker is gone").code == 0
    assert bench.status_of(job.id) == "queued"
    assert cli("wait", "--for", "drained").code == 0


def test_a_stale_job_beside_a_running_one_is_waited_for(cli: Cli, bench: Bench) -> None:
    bench.run_job()
    bench.stale_job()
    assert cli(*PAUSE, "--wait", "--timeout", "4s").code == 4


@pytest.mark.parametrize("change", ["resume", "mode", "reason"])
def test_a_pause_that_somebody_changed_meanwhile_ends_with_8(cli: Cli, bench: Bench, change: str) -> None:
    bench.run_job()
    waiting = cli.start(*PAUSE_AND_WAIT)
    waiting.said("1 running")
    match change:
        case "resume":
            bench.client.resume("not now")
        case "mode":
            bench.client.pause("quiesce", "test")
        case _:
            bench.client.pause("drain", "another reason")
    done = waiting.ended()
    assert done.code == 8
    assert "meanwhile" in done.err


def test_ctrl_c_stops_the_wait_and_not_the_pause(cli: Cli, bench: Bench) -> None:
    bench.run_job()
    waiting = cli.start(*PAUSE_AND_WAIT)
    waiting.said("1 running")
    os.kill(waiting.pid, signal.SIGINT)
    done = waiting.ended()
    assert done.code == 1
    assert "the pause stays" in done.err
    assert bench.client.status().system.workers_paused


@pytest.mark.parametrize("goal", ["drained", "parked"])
def test_waiting_for_a_drain_where_nothing_is_paused_ends_with_3(cli: Cli, bench: Bench, goal: str) -> None:
    done = cli("wait", "--for", goal)
    assert done.code == 3
    assert "not paused" in done.err


def test_waiting_for_parked_in_a_drain_ends_with_3(cli: Cli, bench: Bench) -> None:
    bench.client.pause("drain", "test")
    assert cli("wait", "--for", "parked").code == 3


def test_wait_for_running_ends_with_the_resume(cli: Cli, bench: Bench) -> None:
    bench.client.pause("drain", "test")
    waiting = cli.start("wait", "--for", "running", "--json")
    waiting.said("Waiting for a resume")
    bench.client.pause("quiesce", "a change that does not matter here")
    bench.client.resume("go on")
    done = waiting.ended()
    assert done.code == 0
    assert done.json["system"]["workersPaused"] is False


def test_wait_for_running_ends_at_once_where_it_runs(cli: Cli, bench: Bench) -> None:
    assert cli("wait", "--for", "running").code == 0


def test_wait_for_a_version_counts_from_the_one_that_is_named(cli: Cli, bench: Bench) -> None:
    version = bench.client.status().system.version
    assert cli("wait", "--for", "version", "--since-version", str(version), "--timeout", "1s").code == 4
    waiting = cli.start("wait", "--for", "version", "--since-version", str(version))
    waiting.said(f"Waiting for a version above {version}")
    bench.client.pause("drain", "test")
    assert waiting.ended().code == 0
    assert cli("wait", "--for", "version", "--since-version", str(version)).code == 0


def test_a_server_that_restarts_is_waited_for(cli_for: Callable[[str], Cli], sqlite_url: str) -> None:
    with start_server(sqlite_url) as first:
        cli = cli_for(first.url)
        assert cli(*PAUSE).code == 0
        waiting = cli.start("wait", "--for", "running", "--timeout", "60s")
        # Only now: a server that has never answered is not waited for.
        waiting.said("Waiting for a resume")
        port = str(urlsplit(first.url).port)
        first.stop()
        waiting.said("Still waiting.")
    with start_server(sqlite_url, "--port", port) as second:
        waiting.said("The server answers again.")
        assert cli_for(second.url)("resume", "--reason", "upgraded").code == 0
        assert waiting.ended().code == 0
