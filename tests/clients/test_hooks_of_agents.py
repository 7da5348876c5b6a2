"""Claude Code and Codex, each of them run by a worker through examples/agent-workers, with a stand-in for its model.

What is real: the CLIs and their hooks, `holdfast hook`, the worker, the server. What is not: the model.
"""

import json
import subprocess
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.harness import PATIENCE_SECONDS, ROOT, agents_on_path, environment
from clients.model_stub import SAYS, ModelStub
from holdfast_core.schemas import Job
from holdfast_core.states import JobStatus
from holdfast_worker.client import Client
from support.servers import Server
from support.workers import WorkerProcess, start_worker, until

EXAMPLES = ROOT / "examples" / "agent-workers"
AGENTS = ["claude", "codex"]
LEASE_SECONDS = 4
TOLD = "Workers are paused (quiesce): Rolling upgrade. Stop here and wait; call the tool again later."


@pytest.fixture
def model() -> Generator[ModelStub]:
    with ModelStub() as model:
        yield model
    assert model.unknown == []


@pytest.fixture
def client(shared_server: Server, url: str) -> Generator[Client]:
    """The server of these tests; it runs again afterwards."""
    with Client(shared_server.url, token="") as client:
        yield client


@dataclass
class Bench:
    """A folder in which an agent works, and what it is told to do there."""

    folder: Path
    client: Client
    environment: dict[str, str]

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def prompt(self) -> str:
        """Two commands. During the first one a test may do something: it goes on once there is a file `go`."""
        return (
            f"Run these, one after the other:\n"
            f"$ touch {self.path('first')}; until [ -e {self.path('go')} ]; do sleep 0.05; done; echo one\n"
            f"$ echo ran >> {self.path('second')}; echo two\n"
        )

    def worker(self, agent: str, **more: str) -> WorkerProcess:
        """A worker whose jobs are runs of the agent, by the example's script."""
        script = EXAMPLES / f"{agent}.sh"
        options = [
            "--types",
            agent,
            "--lease",
            f"{LEASE_SECONDS}s",
            "--exec",
            f"cd {self.folder} && {script}",
        ]
        return start_worker(
            self.client.url, f"{agent}-worker", self.folder, *options, **self.environment | more
        )

    def enqueue(self, agent: str) -> Job:
        return self.client.enqueue(agent, {"prompt": self.prompt}, max_attempts=1)

    def begun(self) -> None:
        """Wait until the agent runs its first command."""
        until(self.path("first").exists, "the first command", PATIENCE_SECONDS)

    def ended(self, job: Job) -> Job:
        """Wait for the job's end."""
        active = (JobStatus.QUEUED, JobStatus.RUNNING)

        def look() -> Job | None:
            found = self.client.job(job.id)
            return None if found.status in active else found

        found: Job = until(look, "the job's end", PATIENCE_SECONDS)
        return found

    def parked(self, job: Job) -> None:
        """Wait until the job is parked before a tool."""

        def look() -> bool:
            found = [blocker for blocker in self.client.blockers().items if blocker.job_id == job.id]
            return [blocker.verdict for blocker in found] == ["parked"]

        until(look, "the job to be parked", PATIENCE_SECONDS)
        assert self.client.job(job.id).checkpoint == "tool Bash"


@pytest.fixture
def bench(tmp_path: Path, home: Path, client: Client, model: ModelStub) -> Bench:
    """The CLIs on the path, their settings empty but for where the model is."""
    folder = tmp_path / "work"
    folder.mkdir()
    codex = home / ".codex"
    codex.mkdir()
    (codex / "config.toml").write_text(
        f"""
check_for_update_on_startup = false
model = "stub"
model_provider = "stub"

[analytics]
enabled = false

[features]
apps = false
plugins = false

[model_providers.stub]
name = "stub"
base_url = {json.dumps(f"{model.url}/v1")}
wire_api = "responses"
""",
        encoding="utf-8",
    )
    mine = environment(
        home,
        PATH=agents_on_path(tmp_path / "bin"),
        CLAUDE_CONFIG_DIR=str(home / ".claude"),
        CODEX_HOME=str(codex),
        # What Codex needs for a sandbox of its own, not every machine has that runs these tests.
        CODEX_SANDBOX="danger-full-access",
        ANTHROPIC_BASE_URL=model.url,
        ANTHROPIC_API_KEY="dummy",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )
    return Bench(folder, client, mine)


@pytest.mark.parametrize("agent", AGENTS)
def test_while_workers_run_an_agent_works_and_its_tools_are_checkpoints(
    bench: Bench, model: ModelStub, agent: str
) -> None:
    with bench.worker(agent) as worker:
        job = bench.enqueue(agent)
        bench.begun()
        # The hook was called, and has let the tool pass.
        until(lambda: bench.client.job(job.id).checkpoint == "tool Bash", "the checkpoint")
        assert bench.client.job(job.id).phase == "running"
        bench.path("go").touch()
        ended = bench.ended(job)
        assert worker.stop() == 0
    assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)
    assert (ended.result_summary or "").strip() == SAYS
    assert bench.path("second").read_text() == "ran\n"
    assert ["one" in model.results[0], "two" in model.results[1]] == [True, True]


@pytest.mark.requirement("FR-008", "QS-03")
@pytest.mark.parametrize("agent", AGENTS)
def test_a_quiesced_agent_parks_before_its_next_tool_keeps_its_lease_and_goes_on(
    bench: Bench, model: ModelStub, agent: str
) -> None:
    with bench.worker(agent) as worker:
        job = bench.enqueue(agent)
        bench.begun()
        bench.client.pause("quiesce", "Rolling upgrade")
        bench.path("go").touch()
        bench.parked(job)
        held = bench.client.job(job.id)
        shown = subprocess.run(
            ["holdfast", "blockers", "--url", bench.client.url],
            env=bench.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        ).stdout
        assert [str(job.id) in line and "parked" in line for line in shown.splitlines()[1:]] == [True]

        over = time.monotonic() + 1.5 * LEASE_SECONDS
        while time.monotonic() < over:
            metrics = bench.client.wait("drained", timeout_seconds=0.5).metrics
            assert (metrics.running, metrics.parked, metrics.stale_running) == (1, 1, 0)
            assert not bench.path("second").exists()
        assert len(model.results) == 1
        bench.client.resume("done")
        ended = bench.ended(job)
        assert worker.stop() == 0
    said = [event.message for event in bench.client.log_of(job.id).items]
    assert said.count("Paused at checkpoint: tool Bash") == 1
    # The same run of the same agent: one attempt, one start, each tool once.
    assert (ended.status, ended.attempt, ended.started_at) == (JobStatus.SUCCEEDED, 1, held.started_at)
    assert bench.path("second").read_text() == "ran\n"
    assert len(model.results) == 2
    assert "two" in model.results[1]


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_that_waited_for_the_limit_is_told_so_and_its_tool_does_not_run(
    bench: Bench, model: ModelStub, agent: str
) -> None:
    with bench.worker(agent, HOLD_LIMIT="1s"):
        job = bench.enqueue(agent)
        bench.begun()
        bench.client.pause("quiesce", "Rolling upgrade")
        bench.path("go").touch()
        bench.ended(job)
    assert len(model.results) == 2
    assert TOLD in model.results[1]
    assert not bench.path("second").exists()


def test_a_handler_in_python_runs_agents_in_stages_and_steps(bench: Bench, model: ModelStub) -> None:
    subprocess.run(
        ["holdfast", "hook", "install", "--client", "claude-code", "--write"],
        env=bench.environment,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    agent = f"claude --print --allowedTools Bash --add-dir {bench.folder}"
    options = ["--types", "interview", "--lease", f"{LEASE_SECONDS}s", "--handler", "handler:handle"]
    more = {"PYTHONPATH": str(EXAMPLES), "AGENT": agent}
    with start_worker(
        bench.client.url, "interviewer", bench.folder, *options, **bench.environment | more
    ) as worker:
        job = bench.client.enqueue("interview", {"prompts": [bench.prompt, "Say that you are done."]})
        bench.begun()
        bench.client.pause("quiesce", "Rolling upgrade")
        bench.path("go").touch()
        bench.parked(job)
        bench.client.resume("done")
        ended = bench.ended(job)
        assert ended.status is JobStatus.SUCCEEDED, ended.error_message
        assert json.loads(ended.result_summary or "") == {"answers": 2}
        [artifact] = bench.client.artifacts_of(job.id).items
        assert artifact.name == "answers.md"
        refused = bench.client.enqueue("interview", {"prompts": "no list"})
        assert bench.ended(refused).status is JobStatus.FAILED
        assert worker.stop() == 0
    assert bench.path("second").read_text() == "ran\n"


def test_an_agent_without_a_worker_parks_too_and_keeps_the_leases_of_its_jobs(
    bench: Bench, model: ModelStub
) -> None:
    """Case by case as an agent does it that claims by MCP: the job is its own, and the hook asks the server."""
    job = bench.client.enqueue("own", {}, max_attempts=1)
    claimed = bench.client.claim("agent", LEASE_SECONDS, allowed_types=["own"]).job
    assert claimed is not None
    assert claimed.id == job.id
    mine = ["--url", bench.client.url, "--worker-id", "agent", "--lease-seconds", str(LEASE_SECONDS)]
    subprocess.run(
        ["holdfast", "hook", "install", "--client", "codex", "--write", "--trust", *mine],
        env=bench.environment,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    bench.client.pause("quiesce", "Rolling upgrade")
    bench.path("go").touch()
    agent = subprocess.Popen(
        ["codex", "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", bench.prompt],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=bench.folder,
        env=bench.environment,
    )
    with agent:
        try:
            bench.parked(job)
            over = time.monotonic() + 1.5 * LEASE_SECONDS
            while time.monotonic() < over:
                metrics = bench.client.wait("drained", timeout_seconds=0.5).metrics
                assert (metrics.running, metrics.parked, metrics.stale_running) == (1, 1, 0)
            assert model.results == []
            bench.client.resume("done")
            out, errors = agent.communicate(timeout=PATIENCE_SECONDS)
        finally:
            agent.kill()
    assert agent.returncode == 0, errors
    assert SAYS in out
    assert bench.path("second").read_text() == "ran\n"
    done = bench.client.complete(job.id, "agent", lease_token=claimed.lease_token)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 1)


def test_codex_skips_a_hook_that_it_was_not_told_to_trust(bench: Bench, model: ModelStub) -> None:
    """Why --trust is there: without a word it runs the tool that the hook would have refused."""
    hook = [
        "holdfast",
        "hook",
        "install",
        "--client",
        "codex",
        "--write",
        "--limit",
        "1s",
        "--url",
        bench.client.url,
    ]
    agent = ["codex", "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access"]
    bench.client.pause("quiesce", "Rolling upgrade")

    def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            cwd=bench.folder,
            env=bench.environment,
            check=True,
        )

    said = run(hook).stderr
    assert "without a word" in said
    run([*agent, "$ echo untrusted"])
    run([*hook, "--trust"])
    run([*agent, "$ echo trusted"])
    untrusted, trusted = model.results
    assert "untrusted" in untrusted
    assert TOLD in trusted
