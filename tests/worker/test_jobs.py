"""What becomes of a job in a worker's hands."""

import shutil
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from holdfast_core.schemas import Job
from holdfast_core.states import TERMINAL, JobStatus
from holdfast_worker.client import Client
from support.servers import Server, start_server
from support.workers import Ledger, start_worker, until

TRANSPORTS = pytest.mark.parametrize("transport", ["auto", "http", "mcp"])


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind is enough: which database the server has is nothing to how a worker runs its jobs."""
    return sqlite_url


def ended(client: Client, job: Job) -> Job:
    found: Job = until(lambda: (now := client.job(job.id)).status in TERMINAL and now, "the end of the job")
    return found


@TRANSPORTS
def test_a_job_runs_through_its_stages_and_leaves_its_log_its_artifact_and_its_result(
    server: Server, client: Client, tmp_path: Path, transport: str
) -> None:
    job = client.enqueue("report", {"month": 3})
    with start_worker(server.url, "w", tmp_path, "--transport", transport, handler="stages") as worker:
        after = ended(client, job)
        assert worker.stop() == 0
    assert (after.status, after.attempt, after.claimed_by) == (JobStatus.SUCCEEDED, 1, "w")
    log = client.log_of(job.id).items
    assert [(event.message, event.payload) for event in log] == [
        ("part a", {"part": "a"}),
        ("part b", {"part": "b"}),
    ]
    (artifact,) = client.artifacts_of(job.id).items
    assert (artifact.name, artifact.content_type, artifact.size) == ("report.txt", "text/plain", 9)
    assert after.result_summary == artifact.digest


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("nothing", JobStatus.SUCCEEDED, None),
        ("text", JobStatus.SUCCEEDED, "a text"),
        ("json", JobStatus.SUCCEEDED, '{"a": [1, 2]}'),
        ("long", JobStatus.SUCCEEDED, "x" * 8_000),
        ("final", JobStatus.FAILED, "the input is bad"),
        ("unwritable", JobStatus.FAILED, "The handler's result cannot be written as JSON"),
        ("raises", JobStatus.DEAD_LETTER, "ValueError: it broke"),
        ("exit", JobStatus.DEAD_LETTER, "SystemExit: 3"),
    ],
)
def test_what_a_handler_returns_or_raises_is_what_becomes_of_the_job(
    shared: tuple[Server, Client], how: str, status: JobStatus, said: str | None
) -> None:
    _, client = shared
    after = ended(client, client.enqueue("t", {"how": how}, max_attempts=2))
    assert after.status is status
    # A failure that may pass was tried as often as it could be; what is final was not tried again.
    assert after.attempt == (2 if status is JobStatus.DEAD_LETTER else 1)
    shown = after.result_summary if status is JobStatus.SUCCEEDED else after.error_message
    assert shown == said or (said is not None and shown is not None and shown.startswith(said))


def test_slots_are_jobs_at_once(server: Server, client: Client, tmp_path: Path, ledger: Ledger) -> None:
    for _ in range(4):
        client.enqueue("t", ledger.payload(seconds=60))
    with start_worker(server.url, "w", tmp_path, "--slots", "3", handler="busy") as worker:
        until(lambda: len(ledger.lines("begin")) == 3, "three jobs")
        until(lambda: client.status().metrics.running == 3)
        assert [len(view.jobs) for view in client.workers().items] == [3]
        for job in client.jobs(status="running").items:
            client.cancel(job.id, "enough")
        until(lambda: len(ledger.lines("begin")) == 4, "the fourth, in the place of another")
        worker.kill()


def test_types_and_capabilities_choose_the_jobs(server: Server, client: Client, tmp_path: Path) -> None:
    other = client.enqueue("other", {"how": "text"})
    needy = client.enqueue("mine", {"how": "text"}, required_capabilities=["gpu", "large"])
    mine = client.enqueue("mine", {"how": "text"}, required_capabilities=["gpu"])
    options = ("--types", "mine, also", "--capability", "gpu")
    with start_worker(server.url, "w", tmp_path, *options, handler="varied") as worker:
        assert ended(client, mine).status is JobStatus.SUCCEEDED
        assert worker.stop() == 0
    assert client.job(other.id).status is JobStatus.QUEUED
    assert client.job(needy.id).status is JobStatus.QUEUED


@TRANSPORTS
def test_a_cancelled_job_is_stopped_and_acknowledged(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger, transport: str
) -> None:
    job = client.enqueue("t", ledger.payload())
    with start_worker(
        server.url, "w", tmp_path, "--lease", "3s", "--transport", transport, handler="busy"
    ) as worker:
        until(lambda: ledger.lines("begin"), "the job's begin")
        client.cancel(job.id, "no longer needed")
        after = ended(client, job)
        assert worker.stop() == 0
    assert (after.status, after.attempt) == (JobStatus.CANCELLED, 1)
    assert [line.what for line in ledger.lines()] == ["begin", "stopped"]


def test_a_worker_that_starts_its_own_mcp_server_works_on_its_database(
    database_url: str, server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    job = client.enqueue("t", ledger.payload())
    options = ("--transport", "mcp", "--mcp-command", f"{sys.executable} -m holdfast_worker.cli mcp")
    nowhere = "http://127.0.0.1:9"  # so nothing can come from there
    with start_worker(nowhere, "w", tmp_path, *options, HOLDFAST_DATABASE_URL=database_url) as worker:
        assert ended(client, job).status is JobStatus.SUCCEEDED
        until(lambda: [view.transport for view in client.workers().items] == ["mcp"], "its presence")
        assert worker.stop() == 0


@pytest.fixture(scope="module")
def shared(
    _sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[Server, Client]]:
    """One server and one worker for cases that only differ in what the handler does."""
    folder = tmp_path_factory.mktemp("shared")
    database = shutil.copy(_sqlite_template, folder / "holdfast.db")
    with (
        start_server(f"sqlite:///{database}", HOLDFAST_LEASE_RETRY_DELAY_SECONDS="0") as server,
        Client(server.url, token="") as client,
        start_worker(server.url, "w", folder, "--slots", "4", handler="varied"),
    ):
        yield server, client
