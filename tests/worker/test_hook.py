"""`holdfast hook`, as an agent's CLI runs it: a process with the tool call on stdin. Here inside a job of a worker."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from holdfast_worker.hook import asking
from holdfast_worker.hook.answers import SILENT
from holdfast_worker.hook.call import ToolCall
from holdfast_worker.hook.jobs import hold_in_job

PATIENCE_SECONDS = 30.0
CALL = {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "true"}}
RUNNING = {"hold": False, "mode": None, "reason": None, "version": 2}
HELD = {"hold": True, "mode": "quiesce", "reason": "Rolling upgrade", "version": 3}


@dataclass
class Worker:
    """What a worker's control port is to the hook."""

    url: str
    #: The answers, one after the other; the last one stays. Bytes go out as they are, a number as that status; None is
    #: none at all.
    says: deque[dict[str, Any] | bytes | int | None] = field(default_factory=deque)
    asked: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    #: Set once somebody has asked; with `silent` he gets no answer.
    visited: threading.Event = field(default_factory=threading.Event)
    silent: threading.Event = field(default_factory=threading.Event)

    @property
    def environment(self) -> dict[str, str]:
        return {"HOLDFAST_CONTROL_URL": self.url, "HOLDFAST_JOB_TOKEN": "job-token"}


@pytest.fixture
def worker() -> Generator[Worker]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            worker.asked.append({":path": self.path, **body})
            worker.tokens.append(self.headers["authorization"])
            worker.visited.set()
            if worker.silent.is_set():
                self.rfile.read(1)  # until who asks is gone
                return
            answer = worker.says.popleft() if len(worker.says) > 1 else worker.says[0]
            if answer is None:
                return  # the connection closes without a word
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(answer if isinstance(answer, int) else 200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        worker = Worker(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield worker
        finally:
            server.shutdown()
            thread.join()


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "holdfast_worker.cli", "hook", *options]


def run_hook(said: object, *options: str, **environment: str) -> Any:
    """What the hook answers (None: nothing). It has to end with 0 and without a word on stderr."""
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    done = subprocess.run(
        command(*options),
        input=content,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        env=os.environ | environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), done
    return json.loads(done.stdout) if done.stdout else None


def denied(answer: Any) -> str:
    """The reason that the model is given."""
    decision = answer["hookSpecificOutput"]
    assert (decision["hookEventName"], decision["permissionDecision"]) == ("PreToolUse", "deny")
    reason = decision["permissionDecisionReason"]
    assert isinstance(reason, str)
    return reason


def test_while_workers_run_the_tool_passes_without_a_word(worker: Worker) -> None:
    worker.says.append(RUNNING)
    assert run_hook(CALL, **worker.environment) is None
    [asked] = worker.asked
    assert (asked[":path"], asked["label"], asked["kind"]) == ("/checkpoint", "tool Bash", "tool")
    assert 0 < asked["waitSeconds"] <= 60
    assert worker.tokens == ["Bearer job-token"]


def test_before_a_tool_passes_no_library_is_loaded_that_it_does_not_need(worker: Worker) -> None:
    worker.says.append(RUNNING)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command()[1:]],
        input=json.dumps(CALL).encode(),
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        env=os.environ | worker.environment,
        check=True,
    )
    assert len(worker.asked) == 1
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.decode().splitlines()}
    assert "click" in loaded
    assert loaded & {"httpx2", "pydantic", "anyio", "rich", "structlog", "asyncio"} == set()


def test_a_tool_waits_for_as_long_as_the_worker_says(worker: Worker) -> None:
    worker.says.extend([HELD, HELD, HELD, RUNNING])
    assert run_hook(CALL, **worker.environment) is None
    assert len(worker.asked) == 4
    assert {asked["label"] for asked in worker.asked} == {"tool Bash"}


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("Rolling upgrade.", "Workers are paused (quiesce): Rolling upgrade. Stop here and wait;"),
        ("a\x1b[2Jb", r"Workers are paused (quiesce): a\x1b[2Jb. Stop here and wait;"),
        (None, "Workers are paused (quiesce). Stop here and wait;"),
    ],
    ids=["with a reason", "with control characters", "without a reason"],
)
def test_at_the_limit_the_tool_is_refused_and_the_model_told_to_wait(
    worker: Worker, reason: str | None, told: str
) -> None:
    worker.says.append(HELD | {"reason": reason})
    began = time.monotonic()
    answer = run_hook(CALL, "--limit", "1s", **worker.environment)
    assert time.monotonic() - began >= 1
    assert denied(answer) == f"{told} call the tool again later."
    assert max(asked["waitSeconds"] for asked in worker.asked) <= 1


def test_where_the_worker_is_gone_the_tool_is_refused() -> None:
    nobody = {"HOLDFAST_CONTROL_URL": "http://127.0.0.1:9", "HOLDFAST_JOB_TOKEN": "job-token"}
    assert "gone; stop working on it" in denied(run_hook(CALL, **nobody))


@pytest.mark.parametrize("status", [401, 404])
def test_where_the_worker_does_not_run_the_job_any_more_the_tool_is_refused(
    worker: Worker, status: int
) -> None:
    worker.says.extend([HELD, status])
    assert "gone; stop working on it" in denied(run_hook(CALL, **worker.environment))


def test_a_worker_that_is_stopped_has_not_let_the_tool_pass(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.2)
    worker.silent.set()
    verdict = hold_in_job(ToolCall("Bash"), worker.url, "job-token", limit=0.5)
    assert verdict == SILENT
    assert "does not answer" in denied(json.loads(verdict.text))
    assert len(worker.asked) >= 1


@pytest.mark.parametrize("says", [500, b"<html>", b"[]", b"{}"], ids=["500", "html", "list", "empty"])
def test_what_is_no_worker_does_not_stop_the_agent(worker: Worker, says: bytes | int) -> None:
    worker.says.append(says)
    answer = run_hook(CALL, **worker.environment)
    assert answer.keys() == {"systemMessage"}
    assert "so it runs" in answer["systemMessage"]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\n",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b"[]",
        b'"PreToolUse"',
        {},
        CALL | {"hook_event_name": "PostToolUse"},
        CALL | {"hook_event_name": None},
    ],
    ids=[
        "nothing",
        "line",
        "cut",
        "binary",
        "deep",
        "null",
        "list",
        "text",
        "empty",
        "other event",
        "no event",
    ],
)
def test_what_is_no_tool_call_is_answered_with_nothing(worker: Worker, said: object) -> None:
    assert run_hook(said, **worker.environment) is None
    assert worker.asked == []


@pytest.mark.parametrize(
    ("tool", "label"),
    [
        ("mcp__files__read", "tool mcp__files__read"),
        ("a\nb\x1b", r"tool a\nb\x1b"),
        ("x" * 500, "tool " + "x" * 195),
        (None, "tool call"),
        (["Bash"], "tool call"),
    ],
    ids=["mcp", "control characters", "long", "null", "list"],
)
def test_the_checkpoint_is_named_after_the_tool(worker: Worker, tool: object, label: str) -> None:
    worker.says.append(RUNNING)
    assert run_hook(CALL | {"tool_name": tool}, **worker.environment) is None
    assert worker.asked[0]["label"] == label


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda sign: sign.name)
def test_who_ends_the_hook_while_it_waits_has_the_tool_refused(worker: Worker, sign: signal.Signals) -> None:
    worker.silent.set()
    process = subprocess.Popen(
        command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | worker.environment,
    )
    with process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(CALL).encode())
        process.stdin.close()
        process.stdin = None
        assert worker.visited.wait(PATIENCE_SECONDS)
        process.send_signal(sign)
        out, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, errors) == (0, b"")
    assert "Stop here and wait" in denied(json.loads(out))


def test_a_worker_that_dies_while_the_hook_waits_has_the_tool_refused(worker: Worker) -> None:
    worker.says.extend([HELD, None])
    assert "gone; stop working on it" in denied(run_hook(CALL, **worker.environment))
    assert len(worker.asked) >= 2


@pytest.mark.parametrize(
    "options",
    [["--bogus"], ["--limit", "soon"], ["--lease-seconds", "0"], ["bogus"]],
    ids=["option", "limit", "lease", "verb"],
)
def test_a_wrong_line_in_the_settings_is_told_and_refuses_nothing(worker: Worker, options: list[str]) -> None:
    answer = run_hook(CALL, *options, **worker.environment)
    assert answer.keys() == {"systemMessage"}
    assert "its command line is wrong" in answer["systemMessage"]


def test_an_answer_that_nobody_reads_is_no_failure(worker: Worker) -> None:
    worker.says.append(401)
    process = subprocess.Popen(
        command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | worker.environment,
    )
    with process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(json.dumps(CALL).encode(), PATIENCE_SECONDS)
    assert (process.returncode, errors) == (0, b"")


def test_without_a_stdin_there_is_nothing_to_answer(worker: Worker) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *command()],
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        env=os.environ | worker.environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr
    assert worker.asked == []
