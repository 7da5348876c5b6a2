"""How a worker ends, and when it cannot begin."""

import signal
import threading
import time
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from holdfast_core.states import JobStatus
from holdfast_worker.client import Client
from support.servers import Server
from support.workers import Ledger, start_worker, until


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind is enough: which database the server has is nothing to how a worker ends."""
    return sqlite_url


@pytest.mark.parametrize("transport", ["auto", "http", "mcp"])
def test_an_idle_worker_ends_at_once_and_leaves_nothing_claimed(
    server: Server, client: Client, tmp_path: Path, transport: str
) -> None:
    with start_worker(server.url, "w", tmp_path, "--transport", transport) as worker:
        until(lambda: client.status().workers.connected == 1, "the worker")
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < 10, (
            "the claim of a stopped worker waits at the server for up to 20 s"
        )
    client.enqueue("t", {})
    assert client.wait("running", timeout_seconds=0).metrics.running == 0


def test_running_jobs_end_within_the_grace_and_nothing_new_begins(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    jobs = [client.enqueue("t", ledger.payload(seconds=2)) for _ in range(2)]
    with start_worker(server.url, "w", tmp_path, handler="busy") as worker:
        until(lambda: ledger.lines("begin"), "the first job's begin")
        assert worker.stop() == 0
    assert [line.what for line in ledger.lines()] == ["begin", "end"]
    assert [client.job(job.id).status for job in jobs] == [JobStatus.SUCCEEDED, JobStatus.QUEUED]


@pytest.mark.parametrize("signals", [1, 2], ids=["the grace is over", "a second signal"])
def test_what_is_still_running_then_goes_back_with_no_attempt_used(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger, signals: int
) -> None:
    job = client.enqueue("t", ledger.payload(seconds=60))
    grace = "1" if signals == 1 else "60"
    with start_worker(server.url, "w", tmp_path, "--grace-seconds", grace, handler="busy") as worker:
        until(lambda: ledger.lines("begin"), "the job's begin")
        worker.send(signal.SIGTERM)
        worker.said("stopping")
        if signals == 2:
            worker.send(signal.SIGINT)
        assert worker.ended() == 0
    assert [line.what for line in ledger.lines()] == ["begin", "stopped"]
    after = client.job(job.id)
    assert (after.status, after.attempt) == (JobStatus.QUEUED, 1)


def test_a_parked_job_of_a_worker_that_ends_goes_back_and_waits_for_the_resume(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    job = client.enqueue("t", ledger.payload(steps=100, seconds=0.1))
    with start_worker(server.url, "w", tmp_path, HOLDFAST_PAUSE_POLL_INTERVAL_MS="200") as worker:
        until(lambda: ledger.lines("past"), "the first step")
        client.pause("quiesce", "an upgrade of the workers")
        until(lambda: client.wait("parked", timeout_seconds=5).reached, "the job to park")
        assert worker.stop() == 0
    after = client.job(job.id)
    assert (after.status, after.attempt) == (JobStatus.QUEUED, 1)
    assert client.status().metrics.safe_to_upgrade
    with start_worker(server.url, "w", tmp_path, HOLDFAST_PAUSE_POLL_INTERVAL_MS="200") as worker:
        worker.said("workers_paused")
        client.resume("done")
        until(lambda: len(ledger.lines("begin")) == 2, "its next run")
        client.cancel(job.id)
        until(lambda: client.job(job.id).status is JobStatus.CANCELLED)
        assert worker.stop() == 0


def test_a_worker_ends_though_the_server_is_gone(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    client.enqueue("t", ledger.payload(seconds=60))
    with start_worker(server.url, "w", tmp_path, "--grace-seconds", "1", handler="busy") as worker:
        until(lambda: ledger.lines("begin"), "the job's begin")
        server.kill()
        assert worker.stop() == 0
        assert worker.count("outcome_not_delivered") == 1
    assert ledger.lines("stopped")


@pytest.fixture(params=[401, 403])
def door(request: pytest.FixtureRequest) -> Generator[tuple[str, list[str]]]:
    """Something at a URL that lets nobody in, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(request.param)
            self.send_header("content-length", "0")
            self.send_header("connection", "close")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as standing:
        thread = threading.Thread(target=standing.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{standing.server_address[1]}", asked
        finally:
            standing.shutdown()
            thread.join()


@pytest.mark.parametrize("transport", ["auto", "ws", "http", "mcp"])
def test_a_worker_that_is_not_let_in_ends_with_a_clear_message_and_does_not_loop(
    door: tuple[str, list[str]], tmp_path: Path, transport: str
) -> None:
    url, asked = door
    with start_worker(url, "w", tmp_path, "--transport", transport, HOLDFAST_TOKEN="wrong") as worker:
        assert worker.ended(60) == 7
        assert "A worker takes a token of its own, with HOLDFAST_TOKEN" in worker.text
        assert "Traceback" not in worker.text
    assert 1 <= len(asked) <= 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "either --exec 'COMMAND' or --handler"),
        (("--handler", "handlers:steps", "--exec", "true"), "either --exec 'COMMAND' or --handler"),
        (("--handler", "handlers"), "is not like package.module:function"),
        (("--handler", "nowhere:steps"), "there is no module 'nowhere'"),
        (("--handler", "handlers:nothing"), "has no 'nothing'"),
        (("--handler", "handlers:plain"), "is not an `async def`"),
        (("--handler", "handlers:steps", "--worker-id", "a b"), "workerId"),
        (("--handler", "handlers:steps", "--types", "a b"), "allowedTypes"),
        (
            ("--handler", "handlers:steps", "--checkpoints", "stage,stop"),
            "'stop' is none of stage, step and tool",
        ),
        (("--handler", "handlers:steps", "--lease", "1.5s"), "whole seconds"),
        (("--handler", "handlers:steps", "--url", "nowhere"), "'nowhere' is not an address"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_begins(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    from support.workers import HERE, WorkerProcess

    with WorkerProcess(options, {"XDG_RUNTIME_DIR": str(tmp_path)}, HERE) as worker:
        assert worker.ended() == 2
        assert said in worker.text
        assert "Traceback" not in worker.text


@pytest.mark.parametrize("variable", ["HOLDFAST_PAUSE_POLL_INTERVAL_MS", "MOONMIND_PAUSE_POLL_INTERVAL_MS"])
def test_a_poll_interval_that_is_none_is_named_by_its_variable(tmp_path: Path, variable: str) -> None:
    with start_worker("http://127.0.0.1:9", "w", tmp_path, **{variable: "soon"}) as worker:
        assert worker.ended() == 2
        assert f"{variable} should be a number from 50 to 600000." in worker.text


def test_the_first_of_two_workers_with_one_id_ends_and_says_why(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    # On two hosts, as it were: on one the second would not begin.
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with start_worker(server.url, "twin", folders[0]) as first:
        first.said("session_open")
        with start_worker(server.url, "twin", folders[1]) as second:
            assert first.ended() == 1
            assert "Another worker has connected under the id 'twin'" in first.text
            job = client.enqueue("t", ledger.payload())
            until(lambda: client.job(job.id).status is JobStatus.SUCCEEDED, "the job, by the second")
            assert second.stop() == 0


def test_a_second_worker_of_one_id_on_this_host_does_not_begin(server: Server, tmp_path: Path) -> None:
    with start_worker(server.url, "twin", tmp_path) as first:
        first.said("worker_started")
        with start_worker(server.url, "twin", tmp_path) as second:
            assert second.ended() == 1
            assert f"(process {first.pid})" in second.text
        assert first.stop() == 0
