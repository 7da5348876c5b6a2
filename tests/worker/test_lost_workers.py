"""Workers that die, freeze, or wake too late."""

import signal
import time
from pathlib import Path

import pytest

from holdfast_core.states import JobStatus
from holdfast_worker.client import Client
from support.servers import Server
from support.workers import Ledger, start_worker, until

LEASE = ("--lease", "3s")


@pytest.mark.requirement("EDGE-03")
def test_a_killed_worker_shows_as_stale_and_its_job_runs_again_elsewhere_after_the_resume(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    job = client.enqueue("t", ledger.payload(seconds=1.5))
    with start_worker(server.url, "w1", tmp_path, *LEASE, handler="busy") as worker:
        until(lambda: ledger.lines("begin"), "the job's begin")
        client.pause("drain", "an upgrade")
        worker.kill()
        killed_at = time.monotonic()
        until(lambda: client.status().metrics.stale_running == 1, "the stale job")
        assert time.monotonic() - killed_at < 3 + 2, "later than a lease, on a busy machine"
        assert not client.status().metrics.is_drained
        with start_worker(server.url, "w2", tmp_path, *LEASE, handler="busy") as other:
            other.said("workers_paused")
            assert client.wait("drained", timeout_seconds=4).metrics.stale_running == 1  # and so it stays
            client.resume("go on without it", force=True)
            until(lambda: client.job(job.id).status is JobStatus.SUCCEEDED, "the second run")
            assert other.stop() == 0
    after = client.job(job.id)
    assert (after.attempt, after.claimed_by) == (2, "w2")
    assert [(line.worker, line.what) for line in ledger.lines()] == [
        ("w1", "begin"),
        ("w2", "begin"),
        ("w2", "end"),
    ]


@pytest.mark.parametrize("transport", ["auto", "http"])
def test_the_ghost_of_a_frozen_worker_cannot_finish_its_job(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger, transport: str
) -> None:
    job = client.enqueue("t", ledger.payload(seconds=2))
    options = (*LEASE, "--transport", transport)
    with start_worker(server.url, "ghost", tmp_path, *options, handler="busy") as ghost:
        until(lambda: ledger.lines("begin"), "the job's begin")
        ghost.send(signal.SIGSTOP)
        with start_worker(server.url, "alive", tmp_path, *options, handler="busy") as alive:
            until(lambda: len(ledger.lines("begin")) == 2, "the job to be run by the other")
            ghost.send(signal.SIGCONT)
            # By now its two seconds are long over, so it is about to finish; the server does not let it.
            until(lambda: ghost.count("outcome_refused") + ghost.count("job_lost"), "the ghost to be refused")
            until(lambda: client.job(job.id).status is JobStatus.SUCCEEDED, "the end of the second run")
            assert ghost.stop() == 0
            assert alive.stop() == 0
            assert (ghost.count("job_ended"), alive.count("job_ended")) == (0, 1)
    after = client.job(job.id)
    assert (after.attempt, after.claimed_by) == (2, "alive")


def test_a_worker_that_was_frozen_for_less_than_its_lease_goes_on(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    job = client.enqueue("t", ledger.payload(steps=20, seconds=0.1))
    with start_worker(server.url, "w", tmp_path, "--lease", "8s") as worker:
        until(lambda: ledger.lines("past"), "the first step")
        worker.send(signal.SIGSTOP)
        client.wait("running", timeout_seconds=0)
        time.sleep(2)  # frozen: nothing of it can be waited for
        worker.send(signal.SIGCONT)
        until(lambda: client.job(job.id).status is JobStatus.SUCCEEDED)
        assert worker.stop() == 0
    assert client.job(job.id).attempt == 1
    assert len(ledger.lines("begin")) == len(ledger.lines("end")) == 1
