"""`holdfast checkpoint`, as a script runs it: a process of its own inside a job, which asks the control port."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from holdfast_core.states import PauseMode
from holdfast_worker.runtime import ask
from holdfast_worker.runtime.ask import Held, NotInAJob, WorkerGone, ask_checkpoint
from support.control_port import JOB_TOKEN, Steered, steered
from support.workers import until

PATIENCE_SECONDS = 30.0


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Steered]:
    """A worker with a job, of which this process and its children are a part."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOLDFAST_JOB_TOKEN", JOB_TOKEN)
    with steered() as port:
        monkeypatch.setenv("HOLDFAST_CONTROL_URL", port.control.url)
        yield port


def begin(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "holdfast_worker.cli", "checkpoint", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Its exit code and its words. It says nothing on stdout."""
    out, words = process.communicate(timeout=PATIENCE_SECONDS)
    assert out == ""
    assert "Traceback" not in words
    return process.returncode, words


def run(*arguments: str) -> tuple[int, str]:
    return finish(begin(*arguments))


# While it runs, and while it is quiesced


@pytest.mark.parametrize("mode", [None, PauseMode.DRAIN], ids=["running", "drain"])
def test_while_nothing_is_quiesced_it_passes_at_once_and_silently(
    worker: Steered, mode: PauseMode | None
) -> None:
    worker.learn(mode, 2)
    assert run("after tests", "--kind", "stage") == (0, "")
    ((label, kind, wait),) = worker.worker.visits
    assert (label, kind) == ("after tests", "stage")
    assert 0 < wait <= 20


def test_it_needs_neither_a_label_nor_a_kind(worker: Steered) -> None:
    assert run() == (0, "")
    assert [visit[:2] for visit in worker.worker.visits] == [(None, None)]


def test_while_quiesced_it_waits_for_the_resume(worker: Steered) -> None:
    worker.learn(PauseMode.QUIESCE, 2)
    process = begin("a")
    until(lambda: worker.worker.visits, "the visit")
    assert process.poll() is None
    worker.learn(None, 3)
    assert finish(process) == (0, "")
    assert len(worker.worker.visits) == 1, "it waits at the worker, and does not ask again and again"


def test_it_comes_back_while_it_is_held(worker: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "WAIT_SECONDS", 0.1)
    worker.learn(PauseMode.QUIESCE, 2)

    def resume() -> None:
        until(lambda: len(worker.worker.visits) >= 3, "the third visit")
        worker.learn(None, 3)

    thread = threading.Thread(target=resume)
    thread.start()
    assert ask_checkpoint("a", "tool") is None
    thread.join()
    assert {visit[:2] for visit in worker.worker.visits} == {("a", "tool")}


def test_when_its_time_is_over_it_ends_with_4_and_says_why(worker: Steered) -> None:
    worker.learn(PauseMode.QUIESCE, 2, reason="Rolling\x1b[2J upgrade")
    began = time.monotonic()
    code, words = run("--timeout", "1s")
    assert time.monotonic() - began >= 1
    assert code == 4
    assert words == (
        "Error: Workers are still paused (quiesce: Rolling\\x1b[2J upgrade). Ask again, or stop.\n"
    )
    assert ask_checkpoint(limit_seconds=0) == Held("quiesce", "Rolling\x1b[2J upgrade", 2)


def test_a_label_that_is_no_unicode_is_taken(worker: Steered) -> None:
    process = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"holdfast_worker.cli", b"checkpoint", b"a\xffb"], check=True
    )
    assert process.returncode == 0
    assert worker.worker.visits[0][0] == "a?b"


# Outside, and when the worker is gone


@pytest.mark.parametrize("missing", ["HOLDFAST_CONTROL_URL", "HOLDFAST_JOB_TOKEN"])
def test_outside_of_a_job_it_says_what_it_is_for(
    worker: Steered, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delenv(missing)
    code, words = run("a")
    assert code == 2
    assert "is for the commands that `holdfast worker run --exec` runs" in words
    assert "--outside-ok" in words
    assert run("a", "--outside-ok") == (0, "")
    assert worker.worker.visits == []


@pytest.mark.parametrize(
    "url", ["nonsense", "http://127.0.0.1:port", "http://[::1", "http://127.0.0.1:99999"]
)
def test_an_address_that_is_none_is_no_job(
    worker: Steered, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HOLDFAST_CONTROL_URL", url)
    with pytest.raises(NotInAJob, match="is no address"):
        ask_checkpoint()


def test_where_the_worker_is_gone_it_ends_with_6_and_says_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_JOB_TOKEN", JOB_TOKEN)
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HOLDFAST_CONTROL_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        code, words = run()
        assert code == 6
        assert "is gone: nobody answers in its place. Stop:" in words
        assert run("--outside-ok")[0] == 6, "a job without a worker is not outside"


def test_where_the_worker_does_not_run_the_job_any_more_it_ends_with_6(
    worker: Steered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_JOB_TOKEN", "of another attempt")
    code, words = run()
    assert code == 6
    assert "does not run this job any more" in words


@dataclass
class Stub:
    """Something at the control port's place: answers each connection with the next of these, the last one for ever.
    None: with nothing, and the connection ends."""

    answers: deque[bytes | Callable[[socket.socket], None] | None]
    asked: list[bytes] = field(default_factory=list)


@contextmanager
def stub(
    monkeypatch: pytest.MonkeyPatch, *answers: bytes | Callable[[socket.socket], None] | None
) -> Generator[Stub]:
    found = Stub(deque(answers))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                found.asked.append(connection.recv(65_536))
                answer = found.answers.popleft() if len(found.answers) > 1 else found.answers[0]
                if callable(answer):
                    answer(connection)
                elif answer is not None:
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    monkeypatch.setenv("HOLDFAST_JOB_TOKEN", JOB_TOKEN)
    monkeypatch.setenv("HOLDFAST_CONTROL_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        yield found
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def response(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body)


FREE = response(200, json.dumps({"hold": False, "mode": None, "reason": None, "version": 2}).encode())


@pytest.mark.parametrize(
    "answer",
    [
        response(500, b"{}"),
        response(404, b'{"hold": false}'),
        response(200, b"<html>"),
        response(200, b"[]"),
        response(200, b"{}"),
        response(200, b'{"hold": true}'),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        None,
    ],
    ids=["500", "404", "html", "list", "empty", "half", "ssh", "nothing"],
)
def test_what_is_no_worker_does_not_let_a_job_pass(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    with stub(monkeypatch, answer), pytest.raises(WorkerGone):
        ask_checkpoint()


def test_an_answer_that_broke_off_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub(monkeypatch, None, FREE[:-5], FREE) as found:
        assert ask_checkpoint("a") is None
        assert len(found.asked) == 3


@pytest.mark.parametrize("status", [503, 429, 408])
def test_a_worker_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with stub(monkeypatch, response(status, b"{}"), FREE) as found:
        assert ask_checkpoint("a") is None
        assert len(found.asked) == 2


def test_a_worker_that_is_stopped_has_not_let_a_job_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    awake = threading.Event()
    with stub(monkeypatch, lambda _: bool(awake.wait(PATIENCE_SECONDS)) and None):
        try:
            assert ask_checkpoint(limit_seconds=0.3) == Held(silent=True)
            code, words = run("--timeout", "1s")
        finally:
            awake.set()
    assert code == 4
    assert "has not answered in time, so nothing is known" in words


# What it costs


def test_before_it_passes_no_library_is_loaded_that_it_does_not_need(worker: Steered) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "holdfast_worker.cli", "checkpoint", "a"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"click", "http"} <= loaded
    assert loaded & {"httpx2", "pydantic", "anyio", "rich", "structlog", "asyncio", "subprocess"} == set()
