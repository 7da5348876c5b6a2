"""The server, and the database with it, are gone for a while: three lengths of a lease.

Leases are short here; `make soak` runs the same with leases of forty seconds, so two minutes of outage.
"""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast_core.states import JobStatus
from holdfast_worker.client import Client
from support.ports import lasting_port
from support.servers import Server, start_server
from support.workers import Ledger, WorkerProcess, start_worker, until

LEASE_SECONDS = int(os.environ.get("HOLDFAST_TEST_LEASE_SECONDS", "3"))
OUTAGE_SECONDS = 3 * LEASE_SECONDS

TRANSPORTS = pytest.mark.parametrize("transport", ["auto", "http"])


@pytest.fixture
def port() -> int:
    return lasting_port()


@contextmanager
def serving(database_url: str, port: int, *, grace: str) -> Generator[tuple[Server, Client]]:
    """The server at an address that stays over its restarts."""
    settings = {"HOLDFAST_LEASE_GRACE_SECONDS": grace, "HOLDFAST_LEASE_RETRY_DELAY_SECONDS": "0"}
    with (
        start_server(database_url, "--port", str(port), **settings) as server,
        Client(server.url, token="") as client,
    ):
        yield server, client


def begin(folder: Path, port: int, name: str, transport: str, handler: str, slots: int = 1) -> WorkerProcess:
    options = ("--lease", f"{LEASE_SECONDS}s", "--transport", transport, "--slots", str(slots))
    environment = {"HOLDFAST_PAUSE_POLL_INTERVAL_MS": "300"}
    return start_worker(f"http://127.0.0.1:{port}", name, folder, *options, handler=handler, **environment)


@TRANSPORTS
@pytest.mark.requirement("EDGE-03", "EDGE-04")
def test_parked_jobs_go_on_under_their_old_claims_after_an_outage_of_three_leases(
    database_url: str, port: int, tmp_path: Path, ledger: Ledger, transport: str
) -> None:
    with begin(tmp_path, port, "w", transport, "steps", slots=3) as worker:
        # A grace, as in production: who was held up by the outage heartbeats first.
        with serving(database_url, port, grace="30") as (server, client):
            jobs = [
                client.enqueue("t", ledger.payload(steps=30, seconds=0.1), max_attempts=1) for _ in range(3)
            ]
            until(lambda: len({line.job for line in ledger.lines("past")}) == 3, "all three at work")
            client.pause("quiesce", "a move to another machine")
            until(lambda: client.wait("parked", timeout_seconds=5).metrics.parked == 3, "all three to park")
            held = {job.id: client.job(job.id) for job in jobs}
            server.kill()
        before = ledger.lines()
        time.sleep(OUTAGE_SECONDS)
        assert ledger.lines() == before, "a parked job has moved"
        with serving(database_url, port, grace="30") as (_, client):
            assert client.status().system.workers_paused
            until(lambda: client.status().metrics.parked == 3, "their leases to be revived")
            assert ledger.lines() == before, "a parked job has moved"
            client.resume("moved")
            until(lambda: all(client.job(j.id).status is JobStatus.SUCCEEDED for j in jobs), "their end")
            assert worker.stop() == 0
            for job in jobs:
                after = client.job(job.id)
                assert (after.attempt, after.started_at) == (1, held[job.id].started_at)
                assert [line.what for line in ledger.lines(job=job.id)].count("begin") == 1
                assert len(ledger.lines("past", job.id)) == 30
            assert not client.jobs(status="dead_letter").items


@TRANSPORTS
def test_running_jobs_are_stopped_before_their_leases_end_and_none_is_lost_or_finished_twice(
    database_url: str, port: int, tmp_path: Path, ledger: Ledger, transport: str
) -> None:
    with begin(tmp_path, port, "w", transport, "busy", slots=3) as worker:
        with serving(database_url, port, grace="0") as (server, client):
            long = [client.enqueue("t", ledger.payload(seconds=LEASE_SECONDS * 5 / 3)) for _ in range(2)]
            short = client.enqueue("t", ledger.payload(seconds=LEASE_SECONDS / 3))
            until(lambda: len(ledger.lines("begin")) == 3, "all three at work")
            server.kill()
            gone_at = time.monotonic()
        until(lambda: len(ledger.lines("stopped")) == 2, "the long ones to be stopped")
        for line in ledger.lines("stopped"):
            assert line.at < gone_at + LEASE_SECONDS, "it went on when it could be somebody else's"
        assert [line.job for line in ledger.lines("end")] == [str(short.id)]
        time.sleep(max(0.0, gone_at + OUTAGE_SECONDS - time.monotonic()))
        with serving(database_url, port, grace="0") as (_, client):
            jobs = [*long, short]
            until(lambda: all(client.job(j.id).status is JobStatus.SUCCEEDED for j in jobs), "the end of all")
            assert worker.stop() == 0
            for job in long:
                # By one run each, after one that was stopped. The other may have been told by the sweep first.
                assert [line.what for line in ledger.lines(job=job.id)] == [
                    "begin",
                    "stopped",
                    "begin",
                    "end",
                ]
            runs = [line.what for line in ledger.lines(job=short.id)]
            assert client.job(short.id).attempt == len(runs) / 2
            assert runs in (["begin", "end"], ["begin", "end", "begin", "end"])


@TRANSPORTS
def test_a_worker_that_comes_back_to_a_paused_server_idles(
    database_url: str, port: int, tmp_path: Path, ledger: Ledger, transport: str
) -> None:
    with serving(database_url, port, grace="0") as (_, client):
        client.pause("drain", "before anybody came")
        job = client.enqueue("t", ledger.payload())
    with begin(tmp_path, port, "w", transport, "steps") as worker:
        worker.said("server_unreachable")
        with serving(database_url, port, grace="0") as (_, client):
            worker.said("workers_paused", pause_version=2)
            until(lambda: client.status().workers.acknowledged == 1, "the worker's word")
            assert client.wait("drained", timeout_seconds=0).metrics.queued == 1
            assert not ledger.lines()
            assert client.job(job.id).status is JobStatus.QUEUED
            client.resume("go")
            until(lambda: client.job(job.id).status is JobStatus.SUCCEEDED, "the job")
            assert worker.count("server_unreachable") == worker.count("server_back") == 1
            assert worker.stop() == 0


@pytest.mark.parametrize("transport", ["auto"])
def test_an_outcome_that_the_server_could_not_take_is_told_when_it_is_back(
    database_url: str, port: int, tmp_path: Path, ledger: Ledger, transport: str
) -> None:
    with begin(tmp_path, port, "w", transport, "busy") as worker:
        with serving(database_url, port, grace="30") as (server, client):
            job = client.enqueue("t", ledger.payload(seconds=1), max_attempts=1)
            until(lambda: ledger.lines("begin"), "the job's begin")
            server.kill()
        worker.said("outcome_not_taken")
        with serving(database_url, port, grace="30") as (_, client):
            until(lambda: client.job(job.id).status is JobStatus.SUCCEEDED, "the outcome")
            assert client.job(job.id).attempt == 1
            assert worker.stop() == 0
    assert [line.what for line in ledger.lines()] == ["begin", "end"]
