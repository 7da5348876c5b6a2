"""`holdfast worker run --exec`: real workers whose jobs are commands."""

import shlex
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from holdfast_core.schemas import Job, JobEvent
from holdfast_core.states import TERMINAL, JobStatus
from holdfast_worker.client import Client
from support.exec_harness import alive
from support.servers import Server
from support.workers import start_worker, until

LEASE = ("--lease", "3s")
CHECKPOINT = f"{sys.executable} -m holdfast_worker.cli checkpoint"
#: Writes what it is told first and the time into the file that the payload names, over and over.
BEATS = """
import json, os, sys, time
path = json.load(sys.stdin)["beats"]
while True:
    with open(path, "a") as file:
        file.write(f"{os.environ['HOLDFAST_WORKER_ID']} {os.getpid()} {time.monotonic()}\\n")
    time.sleep(0.02)
"""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind is enough: which database the server has is nothing to a worker's command."""
    return sqlite_url


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def ended(client: Client, job: Job) -> Job:
    found: Job = until(lambda: (now := client.job(job.id)).status in TERMINAL and now, "the end of the job")
    return found


def pages(client: Client, job: Job) -> Generator[list[JobEvent]]:
    """Its log."""
    after = 0
    while (page := client.log_of(job.id, after=after)).items:
        yield page.items
        after = page.next_after


@pytest.fixture
def beats(tmp_path: Path) -> Path:
    path = tmp_path / "beats"
    path.touch()
    return path


def beats_of(path: Path, worker: str) -> list[float]:
    """When the command of this worker's job was alive."""
    lines = [line.split() for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [float(at) for who, _, at in lines if who == worker]


def pids_in(path: Path) -> set[int]:
    return {
        int(line.split()[1]) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")
    }


def test_a_command_gets_its_payload_and_its_words_and_its_result_are_kept(
    server: Server, client: Client, tmp_path: Path
) -> None:
    command = (
        'echo "stdin $(cat)"; echo "file $(cat "$HOLDFAST_PAYLOAD_FILE")"; echo "variable $HOLDFAST_PAYLOAD";'
        ' echo "job $HOLDFAST_JOB_ID $HOLDFAST_JOB_TYPE $HOLDFAST_JOB_ATTEMPT $HOLDFAST_WORKER_ID";'
        " sleep 1; echo warning >&2; echo a result"
    )
    job = client.enqueue("report", {"month": 3})
    with start_worker(server.url, "w", tmp_path, "--exec", command, TMPDIR=str(tmp_path)) as worker:
        after = ended(client, job)
        assert worker.stop() == 0
        assert worker.count("command_guard_missing") == 0
    assert (after.status, after.attempt, after.result_summary) == (JobStatus.SUCCEEDED, 1, "a result")
    payload = '{"month": 3}'
    said = [(event.level, event.message, event.payload) for event in client.log_of(job.id).items]
    assert said[0] == (
        "info",
        f"stdin {payload}\nfile {payload}\nvariable {payload}\njob {job.id} report 1 w",
        None,
    )
    assert sorted(said[1:], key=str) == [
        ("info", "a result", None),
        ("info", "warning", {"stream": "stderr"}),
    ]
    assert list(tmp_path.glob("holdfast-job-*")) == []


@pytest.mark.parametrize(
    ("code", "status", "attempts", "said"),
    [
        (65, JobStatus.FAILED, 1, "exit code 65; its last words:\nno good"),
        (3, JobStatus.DEAD_LETTER, 2, "CommandFailed: exit code 3; its last words:\nno good"),
    ],
    ids=["final", "again"],
)
def test_the_exit_code_says_whether_it_is_tried_again(
    server: Server, client: Client, tmp_path: Path, code: int, status: JobStatus, attempts: int, said: str
) -> None:
    job = client.enqueue("t", {}, max_attempts=2)
    with start_worker(server.url, "w", tmp_path, "--exec", f"echo no good >&2; exit {code}") as worker:
        after = ended(client, job)
        assert worker.stop() == 0
    assert (after.status, after.attempt, after.error_message) == (status, attempts, said)


def test_what_is_too_much_for_a_log_leaves_the_job_and_its_lease_alone(
    server: Server, client: Client, tmp_path: Path
) -> None:
    job = client.enqueue("t", {})
    command = "yes 0123456789 | head -c 220000000; echo end"
    with start_worker(server.url, "w", tmp_path, *LEASE, "--exec", command) as worker:
        after = ended(client, job)
        assert worker.stop() == 0
        assert worker.count("heartbeat_failed") == worker.count("lease_runs_out") == 0
    assert (after.status, after.attempt, after.result_summary) == (JobStatus.SUCCEEDED, 1, "end")
    events = [event for page in pages(client, job) for event in page]
    assert events[0].message.startswith("0123456789\n0123456789\n")
    assert events[-1].message.endswith("\n0123456789\nend")
    assert any("came faster than the log takes them" in e.message for e in events if e.level == "warn")


@pytest.mark.parametrize("transport", ["auto", "http"])
def test_a_cancelled_job_ends_with_all_that_it_has_started(
    server: Server, client: Client, tmp_path: Path, beats: Path, transport: str
) -> None:
    job = client.enqueue("t", {"beats": str(beats)})
    beat = python(BEATS)
    command = f"{beat} < $HOLDFAST_PAYLOAD_FILE & trap '' TERM; {beat}"
    options = (*LEASE, "--transport", transport, "--kill-after", "1s", "--exec", command)
    with start_worker(server.url, "w", tmp_path, *options) as worker:
        until(lambda: len(pids_in(beats)) == 2, "both processes")
        client.cancel(job.id, "not needed")
        until(lambda: client.job(job.id).status is JobStatus.CANCELLED, "the cancellation")
        assert [pid for pid in pids_in(beats) if alive(pid)] == [], "the server was told before it was so"
        assert worker.stop() == 0


def test_a_worker_that_stops_gives_the_job_back_once_the_command_has_ended(
    server: Server, client: Client, tmp_path: Path, beats: Path
) -> None:
    job = client.enqueue("t", {"beats": str(beats)})
    with start_worker(server.url, "w", tmp_path, "--grace-seconds", "1", "--exec", python(BEATS)) as worker:
        until(lambda: pids_in(beats), "the command")
        assert worker.stop() == 0
        assert [pid for pid in pids_in(beats) if alive(pid)] == []
    after = client.job(job.id)
    assert (after.status, after.attempt) == (JobStatus.QUEUED, 1)


def test_a_killed_workers_command_is_gone_before_the_job_runs_again(
    server: Server, client: Client, tmp_path: Path, beats: Path
) -> None:
    client.enqueue("t", {"beats": str(beats)})
    options = (*LEASE, "--exec", f"trap '' TERM; {python(BEATS)}")
    with start_worker(server.url, "first", tmp_path, *options, TMPDIR=str(tmp_path)) as first:
        until(lambda: beats_of(beats, "first"), "the command")
        pids = pids_in(beats)
        first.kill()
        until(lambda: not any(map(alive, pids)), "the end of the command", 5)
        until(lambda: not list(tmp_path.glob("holdfast-job-*")), "the end of its files", 5)
        with start_worker(server.url, "second", tmp_path, *options) as second:
            until(lambda: beats_of(beats, "second"), "the second run")
            assert max(beats_of(beats, "first")) < min(beats_of(beats, "second"))
            second.kill()


@pytest.mark.parametrize("transport", ["auto", "http"])
def test_a_frozen_workers_command_is_gone_before_the_job_runs_again(
    server: Server, client: Client, tmp_path: Path, beats: Path, transport: str
) -> None:
    job = client.enqueue("t", {"beats": str(beats)})
    options = (*LEASE, "--transport", transport, "--kill-after", "1s", "--exec", python(BEATS))
    with (
        start_worker(server.url, "ghost", tmp_path, *options) as ghost,
        start_worker(server.url, "alive", tmp_path, *options) as other,
    ):
        names = {"ghost": ghost, "alive": other}
        first = until(lambda: next((name for name in names if beats_of(beats, name)), None), "the command")
        second = "alive" if first == "ghost" else "ghost"
        names[first].send(signal.SIGSTOP)
        until(lambda: beats_of(beats, second), "the run by the other")
        assert max(beats_of(beats, first)) < min(beats_of(beats, second))
        names[first].send(signal.SIGCONT)
        names[first].said("job_stopping")
        assert client.job(job.id).claimed_by == second
        client.cancel(job.id)
        until(lambda: client.job(job.id).status is JobStatus.CANCELLED, "the end")
        assert (ghost.stop(), other.stop()) == (0, 0)
    after = client.job(job.id)
    assert (after.attempt, after.claimed_by) == (2, second)


SCRIPT = f"""
set -e
echo begun
{CHECKPOINT} "before the go"
go=$(tr -d '"{{}}' | cut -d' ' -f2)
until test -e "$go"; do sleep 0.02; done
{CHECKPOINT} "after the go" --kind step
echo went on
"""


@pytest.mark.requirement("FR-008", "QS-03")
@pytest.mark.parametrize("transport", ["auto", "http"])
def test_a_script_parks_at_its_checkpoint_and_goes_on_after_the_resume(
    server: Server, client: Client, tmp_path: Path, transport: str
) -> None:
    go = tmp_path / "go"
    job = client.enqueue("t", {"go": str(go)})
    options = (*LEASE, "--transport", transport, "--exec", SCRIPT)
    with start_worker(server.url, "w", tmp_path, *options, HOLDFAST_PAUSE_POLL_INTERVAL_MS="200") as worker:
        until(lambda: client.job(job.id).checkpoint == "before the go", "the first checkpoint")
        client.pause("quiesce", "an upgrade")
        worker.said("workers_paused")
        go.touch()
        until(lambda: client.wait("parked", timeout_seconds=5).reached, "the job to park")
        assert client.job(job.id).checkpoint == "after the go"
        # Longer than its lease, which is kept.
        until(lambda: client.status().metrics.stale_running or time.time() > parked_at(client, job) + 4)
        assert client.status().metrics.parked == 1
        client.resume("done")
        after = ended(client, job)
        assert worker.stop() == 0
    assert (after.status, after.attempt, after.result_summary) == (JobStatus.SUCCEEDED, 1, "went on")
    begun, paused, goes_on, went_on = [event.message for event in client.log_of(job.id).items]
    assert (begun, paused, went_on) == ("begun", "Paused at checkpoint: after the go", "went on")
    assert goes_on.startswith("Goes on after ")


def parked_at(client: Client, job: Job) -> float:
    found = [e for e in client.log_of(job.id).items if e.message.startswith("Paused at checkpoint")]
    return found[0].created_at.timestamp() if found else float("inf")


@pytest.mark.requirement("FR-008")
def test_a_boundary_that_does_not_count_does_not_hold_a_script(
    server: Server, client: Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    job = client.enqueue("t", {"go": str(go)})
    options = (*LEASE, "--checkpoints", "stage,tool", "--exec", SCRIPT)
    with start_worker(server.url, "w", tmp_path, *options) as worker:
        until(lambda: client.job(job.id).checkpoint == "before the go", "the first checkpoint")
        client.pause("quiesce", "an upgrade")
        worker.said("workers_paused")
        go.touch()
        assert ended(client, job).status is JobStatus.SUCCEEDED
        assert worker.stop() == 0


def test_a_parked_command_outlasts_the_lease_of_a_frozen_worker_while_nobody_can_take_its_job(
    server: Server, client: Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    job = client.enqueue("t", {"go": str(go)})
    options = (*LEASE, "--exec", SCRIPT)
    with start_worker(server.url, "w", tmp_path, *options, HOLDFAST_PAUSE_POLL_INTERVAL_MS="200") as worker:
        until(lambda: client.job(job.id).checkpoint == "before the go", "the first checkpoint")
        client.pause("quiesce", "an upgrade")
        worker.said("workers_paused")
        go.touch()
        until(lambda: client.wait("parked", timeout_seconds=5).reached, "the job to park")
        worker.send(signal.SIGSTOP)
        until(lambda: client.status().metrics.stale_running == 1, "the lease to run out")
        worker.send(signal.SIGCONT)
        until(lambda: client.status().metrics.parked == 1, "the worker to say that it still holds it")
        client.resume("done")
        after = ended(client, job)
        assert worker.stop() == 0
    assert (after.status, after.attempt, after.result_summary) == (JobStatus.SUCCEEDED, 1, "went on")


def test_a_script_whose_job_was_cancelled_while_it_was_parked_is_gone(
    server: Server, client: Client, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    job = client.enqueue("t", {})
    command = f"echo $$ > {pid}; while :; do {CHECKPOINT} a; sleep 0.1; done"
    with start_worker(server.url, "w", tmp_path, *LEASE, "--exec", command) as worker:
        until(lambda: client.job(job.id).checkpoint == "a", "a checkpoint")
        client.pause("quiesce", "an upgrade")
        until(lambda: client.wait("parked", timeout_seconds=5).reached, "the job to park")
        client.cancel(job.id, "not needed")
        until(lambda: client.job(job.id).status is JobStatus.CANCELLED, "the cancellation")
        assert not alive(int(pid.read_text()))
        assert worker.stop() == 0


def test_jobs_at_once_have_their_own_tokens_and_park_by_themselves(
    server: Server, client: Client, tmp_path: Path
) -> None:
    jobs = [client.enqueue("t", {"number": number}) for number in range(4)]
    command = f'while :; do {CHECKPOINT} "number $(printenv HOLDFAST_PAYLOAD | tr -dc 0-9)"; sleep 0.1; done'
    with start_worker(server.url, "w", tmp_path, *LEASE, "--slots", "4", "--exec", command) as worker:
        for number, job in enumerate(jobs):
            until(
                lambda job=job, at=f"number {number}": client.job(job.id).checkpoint == at, "its checkpoint"
            )
        client.pause("quiesce", "an upgrade")
        assert (
            until(lambda: (now := client.wait("parked", timeout_seconds=5)).reached and now).metrics.parked
            == 4
        )
        assert [client.job(job.id).phase for job in jobs] == ["parked"] * 4
        worker.kill()
