"""Workers with tokens of their own: what theirs admits they do, and what it does not ends them, in words."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4

import pytest

from holdfast_core.schemas import CreatedToken
from holdfast_core.states import TERMINAL, JobStatus
from holdfast_worker.client import Client
from support.servers import Server, start_server
from support.tokens import create_token_now
from support.workers import Ledger, WorkerProcess, start_worker, until

#: A token that was revoked is refused everywhere after this.
REVOKED_SECONDS = 5.0
#: A worker whose token has ended ends itself: it hears of it at once by its session, else by its next request.
ENDED_SECONDS = 15.0

STDIO = f"{shlex.quote(sys.executable)} -m holdfast_worker.cli mcp --url"


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One kind is enough, and one database: tests/cli/test_tokens.py has tokens on both kinds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tokens') / 'holdfast.db'}"


@pytest.fixture(scope="module")
def server(database_url: str) -> Generator[Server]:
    """A server that asks for tokens."""
    with start_server(
        database_url,
        HOLDFAST_AUTH_PROVIDER="token",
        HOLDFAST_LEASE_GRACE_SECONDS="0",
        HOLDFAST_LEASE_RETRY_DELAY_SECONDS="0",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def admin(server: Server, database_url: str) -> Generator[Client]:
    made = create_token_now(database_url, role="admin", user="root")
    with Client(server.url, token=made.token) as client:
        yield client


@pytest.fixture
def kind() -> str:
    """A type of jobs that is this test's alone."""
    return f"kind-{uuid4().hex}"


def way(transport: str, server: Server) -> list[str]:
    """The options of a worker that speaks so."""
    if transport == "stdio":
        return ["--transport", "mcp", "--mcp-command", f"{STDIO} {server.url}"]
    return ["--transport", transport]


def worker_of(
    server: Server,
    token: CreatedToken | str,
    folder: Path,
    *options: str,
    worker_id: str = "exec-1",
    handler: str = "steps",
) -> WorkerProcess:
    value = token if isinstance(token, str) else token.token
    return start_worker(server.url, worker_id, folder, *options, handler=handler, HOLDFAST_TOKEN=value)


@pytest.mark.parametrize("transport", ["auto", "ws", "http", "mcp", "stdio"])
def test_a_worker_with_a_token_of_its_own_does_its_jobs(
    server: Server, admin: Client, ledger: Ledger, tmp_path: Path, kind: str, transport: str
) -> None:
    token = admin.create_token(worker_id="exec-1", types=[kind])
    theirs = admin.enqueue("theirs", ledger.payload())
    ours = [admin.enqueue(kind, ledger.payload(steps=1)) for _ in range(3)]
    with worker_of(server, token, tmp_path, *way(transport, server), "--types", kind) as worker:
        for job in ours:
            after = until(lambda job=job: (now := admin.job(job.id)).status in TERMINAL and now, "its end")
            assert (after.status, after.claimed_by, after.attempt) == (JobStatus.SUCCEEDED, "exec-1", 1)
        assert worker.stop() == 0
        assert token.token not in worker.text
    assert admin.job(theirs.id).status == JobStatus.QUEUED
    assert token.token not in server.log


@pytest.mark.parametrize("transport", ["auto", "http", "mcp"])
def test_a_token_bound_to_types_narrows_a_worker_that_names_none(
    server: Server, admin: Client, ledger: Ledger, tmp_path: Path, kind: str, transport: str
) -> None:
    token = admin.create_token(worker_id="exec-1", types=[kind])
    theirs = admin.enqueue("theirs", ledger.payload())
    ours = admin.enqueue(kind, ledger.payload(steps=1))
    with worker_of(server, token, tmp_path, *way(transport, server)) as worker:
        until(lambda: admin.job(ours.id).status == JobStatus.SUCCEEDED, "its end")
        assert worker.stop() == 0
    assert admin.job(theirs.id).status == JobStatus.QUEUED


@pytest.mark.parametrize(
    ("options", "worker_id", "reason"),
    [
        ([], "exec-2", "bound to the worker exec-1, and the request names exec-2"),
        (["--types", "ours,theirs"], "exec-1", "bound to the types ours, and the request names theirs"),
        (["--capability", "gpu"], "exec-1", "bound to the capabilities cpu, and the request names gpu"),
    ],
    ids=["another id", "another type", "another capability"],
)
@pytest.mark.parametrize("transport", ["auto", "ws", "http", "mcp", "stdio"])
def test_a_worker_that_goes_beyond_its_token_ends_with_7_and_the_reason(
    server: Server,
    admin: Client,
    tmp_path: Path,
    transport: str,
    options: list[str],
    worker_id: str,
    reason: str,
) -> None:
    token = admin.create_token(worker_id="exec-1", types=["ours"], capabilities=["cpu"])
    with worker_of(server, token, tmp_path, *way(transport, server), *options, worker_id=worker_id) as worker:
        assert worker.ended() == 7
        (line,) = [line for line in worker.text.splitlines() if line.startswith("Error: ")]
        assert reason in line
        assert "Traceback" not in worker.text


@pytest.mark.parametrize("transport", ["auto", "ws", "http", "mcp", "stdio"])
def test_a_worker_without_a_token_or_with_an_operators_ends_with_7(
    server: Server, admin: Client, tmp_path: Path, transport: str
) -> None:
    operator = admin.create_token(role="operator", user="olga")
    for token, reason in (
        ("", "holdfast token create --worker-id"),
        ("hfw_nonsense", "not known here"),
        (operator.token, "olga may not"),
    ):
        with worker_of(server, token, tmp_path, *way(transport, server)) as worker:
            assert worker.ended() == 7, reason
            (line,) = [line for line in worker.text.splitlines() if line.startswith("Error: ")]
            assert reason in line
            assert "Traceback" not in worker.text


@pytest.mark.parametrize("transport", ["auto", "ws", "http", "mcp", "stdio"])
def test_a_worker_whose_token_is_revoked_ends_with_7_and_its_job_is_done_by_another(
    server: Server, admin: Client, ledger: Ledger, tmp_path: Path, kind: str, transport: str
) -> None:
    token = admin.create_token(worker_id="exec-1", types=[kind])
    other = admin.create_token(worker_id="exec-2", types=[kind])
    job = admin.enqueue(kind, ledger.payload(seconds=1.5, steps=20))
    options = [*way(transport, server), "--lease", "3s"]
    with worker_of(server, token, tmp_path, *options) as worker:
        until(lambda: ledger.lines("past"), "the job's first step")
        admin.revoke_token(token.id)
        revoked_at = time.monotonic()
        assert worker.ended(ENDED_SECONDS) == 7
        (stopped,) = ledger.lines("stopped")
        assert stopped.at - revoked_at < (REVOKED_SECONDS if transport in {"auto", "ws"} else ENDED_SECONDS)
        assert worker.count("job_left") == 1
        text = worker.text
        (line,) = [line for line in text.splitlines() if line.startswith("Error: ")]
        assert line.startswith("Error: The server does not let this worker in: ")
        # These are the words for the close code 4001.
        assert transport != "ws" or "The worker's token has ended" in line
        assert "Traceback" not in text
        assert text.count("server_unreachable") <= 2  # it does not hammer
    with worker_of(server, other, tmp_path, "--transport", "http", worker_id="exec-2"):
        again = until(
            lambda: [line for line in ledger.lines("begin", job.id) if line.worker == "exec-2"],
            "the job's second run",
        )
        assert again[0].attempt == 2
        assert again[0].at > stopped.at


def test_a_command_asks_its_worker_at_a_checkpoint_and_does_not_see_the_token(
    server: Server, admin: Client, tmp_path: Path, kind: str
) -> None:
    token = admin.create_token(worker_id="exec-1", types=[kind])
    holdfast = f"{shlex.quote(sys.executable)} -m holdfast_worker.cli"
    job = admin.enqueue(kind)
    command = f'test -z "$HOLDFAST_TOKEN" && {holdfast} checkpoint "half way" && echo done'
    with worker_of(server, token, tmp_path, "--exec", command) as worker:
        after = until(lambda: (now := admin.job(job.id)).status in TERMINAL and now, "its end")
        assert worker.stop() == 0
    assert (after.status, after.result_summary) == (JobStatus.SUCCEEDED, "done")


def test_the_hook_of_an_agent_that_pulls_its_jobs_takes_the_workers_token(
    server: Server, admin: Client, kind: str
) -> None:
    token = admin.create_token(worker_id="agent", types=[kind]).token
    admin.enqueue(kind)
    with Client(server.url, token=token) as agent:
        job = agent.claim("agent", 60).job
        assert job is not None
        call = json.dumps({"hook_event_name": "PreToolUse", "tool_name": "Edit", "tool_input": {"path": "a"}})
        command = [
            sys.executable,
            "-m",
            "holdfast_worker.cli",
            "hook",
            "--limit",
            "2s",
            "--worker-id",
            "agent",
        ]
        environment = os.environ | {"HOLDFAST_URL": server.url, "HOLDFAST_TOKEN": token}
        admin.pause("quiesce", "upgrade")
        try:
            done = subprocess.run(
                command, input=call, env=environment, capture_output=True, text=True, timeout=60, check=True
            )
            assert admin.job(job.id).checkpoint  # said with the heartbeat that parked it
        finally:
            admin.resume("over", force=True)
        assert json.loads(done.stdout)["hookSpecificOutput"]["permissionDecision"] == "deny"
        agent.complete(job.id, "agent", lease_token=job.lease_token)
