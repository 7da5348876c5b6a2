"""`holdfast hook` of an agent that pulls its jobs by itself: the server is asked, and the leases are kept."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from holdfast_core.schemas import Blocker, Job
from holdfast_core.states import JobPhase
from holdfast_worker.client import Client
from support.reaper import reaper
from support.servers import Server, start_server
from support.workers import until

PATIENCE_SECONDS = 60.0
CALL = {"hook_event_name": "PreToolUse", "tool_name": "Edit", "tool_input": {"path": "a"}}
LEASE_SECONDS = 2
ME = ("--worker-id", "agent", "--lease-seconds", str(LEASE_SECONDS))


class Hook:
    """A hook that waits, or has answered."""

    def __init__(self, url: str, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "holdfast_worker.cli", "hook", "--url", url, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ,
        )
        reaper().watch_process(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(CALL).encode())
        self._process.stdin.close()
        self._process.stdin = None

    @property
    def waits(self) -> bool:
        return self._process.poll() is None

    def answer(self) -> Any:
        """What it says in the end; None: nothing."""
        out, errors = self._process.communicate(timeout=PATIENCE_SECONDS)
        assert (self._process.returncode, errors) == (0, b"")
        return json.loads(out) if out else None

    def end(self) -> None:
        if self.waits:
            self._process.kill()
            self._process.communicate()
        reaper().forget(self._process.pid)


Start = Callable[..., Hook]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """One server for all of these: what the hook does has nothing to do with the kind of the database."""
    with start_server(f"sqlite:///{tmp_path_factory.mktemp('hook')}/holdfast.db") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Generator[Client]:
    """The server, running; and again so afterwards, with nothing left at work."""
    with Client(server.url, token="") as client:
        yield client
        if client.status().system.workers_paused:
            client.resume("the next test")
        for job in client.jobs(status="running").items:
            client.cancel(job.id)
            client.cancel_ack(job.id, "agent")


@pytest.fixture
def hook_at() -> Generator[Start]:
    started: list[Hook] = []

    def start(url: str, *options: str) -> Hook:
        started.append(Hook(url, *options))
        return started[-1]

    yield start
    for hook in started:
        hook.end()


@pytest.fixture
def hook(hook_at: Start, server: Server) -> Start:
    """A hook that asks the server of this test."""
    return lambda *options: hook_at(server.url, *options)


def claim(client: Client, lease_seconds: int = LEASE_SECONDS) -> Job:
    client.enqueue("review", {}, max_attempts=1)
    job = client.claim("agent", lease_seconds).job
    assert job is not None
    return job


def blocker_of(client: Client, job: Job) -> Blocker | None:
    return next((blocker for blocker in client.blockers().items if blocker.job_id == job.id), None)


def parked(client: Client, job: Job) -> bool:
    blocker = blocker_of(client, job)
    return blocker is not None and blocker.verdict == "parked"


def reason_in(answer: Any) -> str:
    assert answer["hookSpecificOutput"]["permissionDecision"] == "deny"
    reason = answer["hookSpecificOutput"]["permissionDecisionReason"]
    assert isinstance(reason, str)
    return reason


@pytest.mark.requirement("FR-008")
def test_running_and_draining_pass_quiesce_waits_for_the_resume(client: Client, hook: Start) -> None:
    assert hook().answer() is None
    client.pause("drain", "an upgrade")
    assert hook().answer() is None

    client.pause("quiesce", "an upgrade")
    waiting = hook()
    # It has asked, and asks on: what comes now it learns by its long poll.
    client.pause("quiesce", "a longer upgrade")
    assert client.wait("drained", timeout_seconds=1).reached
    assert waiting.waits
    client.resume("done")
    assert waiting.answer() is None


@pytest.mark.requirement("FR-008", "EDGE-04")
def test_the_jobs_of_the_agent_park_and_their_leases_are_kept(client: Client, hook: Start) -> None:
    job = claim(client)
    client.pause("quiesce", "an upgrade")
    waiting = hook(*ME)
    until(lambda: parked(client, job), "parked")
    assert client.job(job.id).checkpoint == "tool Edit"

    over = time.monotonic() + 2.5 * LEASE_SECONDS
    while time.monotonic() < over:
        metrics = client.wait("drained", timeout_seconds=0.5).metrics
        assert (metrics.running, metrics.parked, metrics.stale_running) == (1, 1, 0)
    client.resume("done")
    assert waiting.answer() is None

    after = client.job(job.id)
    assert after.phase is JobPhase.RUNNING
    ended = client.complete(job.id, "agent", lease_token=job.lease_token)
    assert (ended.status, ended.attempt) == ("succeeded", 1)


def test_at_the_limit_the_model_is_told_to_wait_and_the_job_is_not_parked_any_more(
    client: Client, hook: Start
) -> None:
    job = claim(client, 60)
    client.pause("quiesce", "Rolling upgrade")
    began = time.monotonic()
    answer = hook(*ME, "--limit", "1s").answer()
    assert time.monotonic() - began >= 1
    assert reason_in(answer) == (
        "Workers are paused (quiesce): Rolling upgrade. Stop here and wait; call the tool again later."
    )
    assert client.job(job.id).phase is JobPhase.RUNNING
    # A lease that was longer than what the hook asks for has not become shorter by that.
    expires = client.job(job.id).lease_expires_at
    assert expires is not None
    assert job.lease_expires_at is not None
    assert abs((expires - job.lease_expires_at).total_seconds()) < 10


def test_a_job_that_is_cancelled_meanwhile_is_told_to_the_model(client: Client, hook: Start) -> None:
    job = claim(client)
    client.pause("quiesce", "an upgrade")
    waiting = hook(*ME)
    until(lambda: parked(client, job), "parked")
    client.cancel(job.id, "not needed")
    assert f"{job.id} is to be cancelled (not needed); stop working on it" in reason_in(waiting.answer())


def test_a_job_that_is_lost_meanwhile_is_told_to_the_model(client: Client, hook: Start) -> None:
    job = claim(client)
    client.pause("quiesce", "an upgrade")
    waiting = hook(*ME)
    until(lambda: parked(client, job), "parked")
    client.release(job.id, "agent", job.lease_token or "")
    assert f"The claim of the job {job.id} is over; stop working on it." in reason_in(waiting.answer())


def test_a_server_that_is_not_there_holds_no_tool(hook_at: Start) -> None:
    answer = hook_at("http://127.0.0.1:9", *ME).answer()
    assert answer.keys() == {"systemMessage"}
    assert "so the tool runs" in answer["systemMessage"]
    assert "No Holdfast server answers" in answer["systemMessage"]


def test_an_address_that_is_none_holds_no_tool(hook_at: Start) -> None:
    answer = hook_at("nowhere:x").answer()
    assert "is not an address" in answer["systemMessage"]


def test_a_server_that_goes_away_in_a_quiesce_has_not_ended_it(
    client: Client, hook_at: Start, server: Server
) -> None:
    client.pause("quiesce", "an upgrade")
    paused = _status(server)
    client.resume("done")
    running = _status(server)
    answers: list[tuple[int, bytes]] = [(200, paused), *[(503, b"")] * 3, (200, paused), (200, running)]
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, body = answers.pop(0)
            content = body if "/wait" not in self.path or not body else body[:-1] + b',"reached":true}'
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as stand_in:
        thread = threading.Thread(target=stand_in.serve_forever, args=(0.05,))
        thread.start()
        try:
            assert hook_at(f"http://127.0.0.1:{stand_in.server_address[1]}").answer() is None
        finally:
            stand_in.shutdown()
            thread.join()
    assert answers == []
    assert len(asked) == 6


def _status(server: Server) -> bytes:
    with Client(server.url, token="") as client:
        client.status()
        return client.last_answer
