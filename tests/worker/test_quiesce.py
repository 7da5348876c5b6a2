"""Quiesce over a whole fleet of worker processes (SC-003)."""

import random
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast_core.states import JobStatus
from holdfast_worker.client import Client
from support.servers import Server
from support.workers import Ledger, Line, start_worker, start_workers, until

WORKERS = 20
JOBS = 200
LEASE_SECONDS = 5


@pytest.mark.requirement("SC-003", "FR-008", "US3-1", "US3-2", "QS-03")
def test_a_fleet_parks_at_its_next_checkpoints_keeps_its_leases_and_ends_each_job_once(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    rng = random.Random()
    jobs = [
        client.enqueue("t", ledger.payload(steps=rng.randint(3, 8), seconds=0.3), max_attempts=1)
        for _ in range(JOBS)
    ]
    names = [f"w{number}" for number in range(WORKERS)]
    options = ("--lease", f"{LEASE_SECONDS}s", "--slots", "2")
    with start_workers(server.url, names, tmp_path, *options) as workers:
        until(lambda: len(ledger.lines("end")) >= JOBS // 10, "some work to be done")
        time.sleep(rng.random())  # the moment is chance: no state of the work is waited for
        client.pause("quiesce", "a short upgrade")
        answered = time.monotonic()
        parked = until(
            lambda: (now := client.wait("parked", timeout_seconds=30)).reached and now, "all parked"
        )
        assert parked.metrics.running == parked.metrics.parked > 0
        # What is queued may have been counted before an offer that nobody had accepted went back.
        parked_at = datetime.now(UTC)
        counted = until(
            lambda: (now := client.status().metrics).measured_at > parked_at and now, "a fresh count"
        )
        queued = counted.queued

        # Three lengths of a lease.
        over = time.monotonic() + 3 * LEASE_SECONDS
        while time.monotonic() < over:
            metrics = client.wait("drained", timeout_seconds=1).metrics
            assert (metrics.stale_running, metrics.queued) == (0, queued)
            assert metrics.running == metrics.parked == parked.metrics.parked
        held = {job.id: job for job in client.jobs(status="running", limit=200).items}
        resumed_at = time.monotonic()
        client.resume("done")
        until(lambda: len(client.jobs(status="succeeded", limit=JOBS).items) == JOBS, "all jobs to end")

        share = parked_at_next_checkpoint(ledger, answered, resumed_at)
        assert share >= 0.95, f"only {share:.0%} parked at their next checkpoint"
        for worker in workers.values():
            assert worker.count("workers_paused") == 1
            assert worker.count("pause_cleared") == 1
            assert worker.stop() == 0
    for job in jobs:
        after = client.job(job.id)
        assert (after.status, after.attempt) == (JobStatus.SUCCEEDED, 1)
        if job.id in held:
            assert after.claimed_by == held[job.id].claimed_by
            assert after.started_at == held[job.id].started_at
        assert [line.what for line in ledger.lines(job=job.id)].count("begin") == 1
        assert [line.what for line in ledger.lines(job=job.id)].count("end") == 1
    logs = [event.message for job in held.values() for event in client.log_of(job.id).items]
    assert sum(message.startswith("Paused at checkpoint: step ") for message in logs) == len(held)


def parked_at_next_checkpoint(ledger: Ledger, answered: float, resumed_at: float) -> float:
    """Of the jobs that reached a checkpoint after the pause was answered, the part that did not go past it."""
    first: dict[str, Line] = {}
    for line in ledger.lines("at"):
        if answered < line.at < resumed_at:
            first.setdefault(line.job, line)
    past = {(line.job, line.step): line.at for line in ledger.lines("past")}
    held = [line for line in first.values() if past.get((line.job, line.step), resumed_at) >= resumed_at]
    assert first, "no job reached a checkpoint in the pause: the test proves nothing"
    return len(held) / len(first)


def next_step(ledger: Ledger, before: int) -> float:
    """When the job went past one more checkpoint than `before`."""
    until(lambda: len(ledger.lines("past")) > before, "the next step")
    return ledger.lines("past")[before].at


@pytest.mark.parametrize("transport", ["auto", "http", "mcp"])
@pytest.mark.requirement("FR-007", "NFR-003")
def test_a_parked_job_goes_on_within_one_poll_interval_and_each_version_is_one_line(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger, transport: str
) -> None:
    job = client.enqueue("t", ledger.payload(steps=400, seconds=0.1))
    environment = {"HOLDFAST_PAUSE_POLL_INTERVAL_MS": "700"}
    options = ("--lease", "30s", "--transport", transport, "--slots", "3")
    with start_worker(server.url, "w", tmp_path, *options, **environment) as worker:
        until(lambda: ledger.lines("past", job.id), "the first step")
        for reason in ("one", "two"):
            client.pause("quiesce", reason)
            until(lambda: client.wait("parked", timeout_seconds=5).reached, "the job to park")
            before = len(ledger.lines("past"))
            client.resume(reason)
            resumed_at = time.monotonic()
            went_on = next_step(ledger, before)
            assert went_on - resumed_at < 0.7 * 1.1 + 2, "later than a poll interval, on a busy machine"
        until(lambda: worker.count("pause_cleared") == 2, "both pauses told as over")
        lines = [(e["reason"], e["mode"]) for e in worker.events if e["event"] == "workers_paused"]
        assert lines == [("one", "quiesce"), ("two", "quiesce")]
        client.cancel(job.id)
        until(lambda: client.job(job.id).status is JobStatus.CANCELLED)
        assert worker.stop() == 0


def test_a_drain_lets_running_jobs_go_past_their_checkpoints_and_nothing_new_begins(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    first = client.enqueue("t", ledger.payload(steps=20, seconds=0.1))
    client.enqueue("t", ledger.payload())
    with start_worker(server.url, "w", tmp_path, HOLDFAST_PAUSE_POLL_INTERVAL_MS="200") as worker:
        until(lambda: ledger.lines("past", first.id), "the first step")
        client.pause("drain", "an upgrade")
        assert (
            until(lambda: (now := client.wait("drained", timeout_seconds=30)).reached and now).metrics.queued
            == 1
        )
        assert client.job(first.id).status is JobStatus.SUCCEEDED
        assert {line.job for line in ledger.lines()} == {str(first.id)}
        # Quiesced instead, nothing is left to park; drained again it stays so.
        client.resume("done")
        until(lambda: len(ledger.lines("end")) == 2, "the second job")
        assert worker.stop() == 0


def test_a_quiesce_that_becomes_a_drain_lets_parked_jobs_go_on(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    job = client.enqueue("t", ledger.payload(steps=15, seconds=0.1))
    with start_worker(server.url, "w", tmp_path, HOLDFAST_PAUSE_POLL_INTERVAL_MS="200") as worker:
        until(lambda: ledger.lines("past", job.id), "the first step")
        client.pause("quiesce", "wait")
        until(lambda: client.wait("parked", timeout_seconds=5).reached, "the job to park")
        client.pause("drain", "let them end after all")
        assert until(lambda: client.wait("drained", timeout_seconds=30).reached)
        assert client.job(job.id).status is JobStatus.SUCCEEDED
        assert worker.stop() == 0


@pytest.mark.parametrize("transport", ["auto", "http"])
def test_a_cancel_reaches_a_parked_job(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger, transport: str
) -> None:
    job = client.enqueue("t", ledger.payload(steps=400, seconds=0.1))
    options = ("--lease", "3s", "--transport", transport)
    with start_worker(server.url, "w", tmp_path, *options) as worker:
        until(lambda: ledger.lines("past", job.id), "the first step")
        client.pause("quiesce", "wait")
        until(lambda: client.wait("parked", timeout_seconds=5).reached, "the job to park")
        client.cancel(job.id, "not needed")
        until(lambda: client.job(job.id).status is JobStatus.CANCELLED, "the cancellation")
        assert client.status().metrics.safe_to_upgrade
        assert [line.what for line in ledger.lines(job=job.id)][-1] == "stopped"
        assert worker.stop() == 0


@pytest.mark.requirement("FR-008")
def test_only_the_boundaries_that_are_named_count_as_safe(
    server: Server, client: Client, tmp_path: Path
) -> None:
    client.pause("quiesce", "before it begins")
    client.resume("so that it begins")
    job = client.enqueue("t", {})
    with start_worker(server.url, "w", tmp_path, "--checkpoints", "none", handler="boundaries") as worker:
        until(
            lambda: client.job(job.id).checkpoint == "go",
            "the stage at which the handler waits for the pause",
        )
        client.pause("quiesce", "now")
        until(lambda: client.wait("parked", timeout_seconds=5).reached, "the job to park")
        # Past a stage and two steps, at the first checkpoint without a kind.
        assert client.job(job.id).checkpoint == "explicit"
        client.resume("done")
        until(lambda: client.job(job.id).status is JobStatus.SUCCEEDED)
        assert worker.stop() == 0


@pytest.mark.requirement("EDGE-04", "NFR-003")
def test_operators_are_told_once_of_a_job_that_reaches_no_checkpoint(
    database_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    from support.servers import start_server

    with (
        start_server(database_url, HOLDFAST_CHECKPOINT_TIMEOUT_SECONDS="1") as server,
        Client(server.url, token="") as client,
    ):
        job = client.enqueue("t", ledger.payload(seconds=60))
        environment = {"HOLDFAST_CHECKPOINT_TIMEOUT_SECONDS": "1", "HOLDFAST_PAUSE_POLL_INTERVAL_MS": "200"}
        with start_worker(
            server.url, "w", tmp_path, "--lease", "3s", handler="busy", **environment
        ) as worker:
            until(lambda: ledger.lines("begin"), "the job's begin")
            client.pause("quiesce", "an upgrade")
            late = worker.said("checkpoint_late")
            assert (late["job_id"], late["worker_id"], late["pause_version"]) == (str(job.id), "w", 2)
            warning = until(
                lambda: [e for e in client.log_of(job.id).items if e.level == "warn"], "the warning"
            )
            (blocker,) = client.blockers().items
            assert (blocker.verdict, blocker.phase) == ("slow", "parking")
            # One more look of every kind, and it is still one warning.
            until(lambda: server.log.count("checkpoint_timeout") >= 1)
            client.wait("drained", timeout_seconds=5)
            assert [e for e in client.log_of(job.id).items if e.level == "warn"] == warning
            assert server.log.count("checkpoint_timeout") == 1
            assert worker.count("checkpoint_late") == 1
            worker.kill()
