"""`holdfast demo` from end to end: its good case, its bad ones, and that nothing of it stays behind."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import httpx2
import pytest

from cli.harness import PATIENCE_SECONDS, Cli, Running

PROCESS = re.compile(r"\(process (\d+)\)")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Twelve files, one of which does not compile."""
    root = tmp_path / "source"
    root.mkdir()
    for number in range(11):
        (root / f"m{number}.py").write_text(f"def f{number}():\n    return {number}\n")
    (root / "wrong.py").write_text("def f(:\n")
    return root


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The folder for temporary files that the demo is given, to see what stays in it."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


@pytest.fixture
def demo(temporary: Path, tree: Path) -> Generator[Callable[..., Running]]:
    """Starts `holdfast demo` on the small tree."""
    cli = Cli("http://127.0.0.1:1")  # a server of the user's own, which the demo must not use

    def start(*options: str, **environment: str) -> Running:
        arguments = ("demo", "--source", str(tree), "--workers", "2", *options)
        return cli.start(*arguments, TMPDIR=str(temporary), **environment)

    yield start
    for running in cli.started:
        running.stop()


def processes(running: Running, workers: int = 2) -> list[int]:
    """The server's process and its workers', once all have been started."""
    return [
        int(PROCESS.findall(running.said(text))[0])
        for text in ("It is ready at", *(f"Worker demo-{n} started" for n in range(1, workers + 1)))
    ]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A process that has ended and that nobody has waited for yet.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return not Path("/proc").is_dir()


def test_the_demo_checks_what_it_claims_and_ends_with_0(
    demo: Callable[..., Running], temporary: Path, tmp_path: Path
) -> None:
    untouched = tmp_path / "users-own.db"
    running = demo(
        "--pace", "0.3", "--json", HOLDFAST_DATABASE_URL=f"sqlite:///{untouched}", HOLDFAST_PORT="1"
    )
    pids = processes(running)
    running.said("Safe to upgrade.")
    done = running.ended()
    assert done.code == 0, done.err
    summary = done.json
    assert summary["ok"] is True
    assert (summary["jobs"], summary["workers"], summary["staleRequeued"]) == (12, 2, 0)
    assert summary["notCompiled"] == ["wrong.py"]
    assert all(check["ok"] for check in summary["checks"])
    assert [(event["action"], event["version"]) for event in summary["audit"]] == [
        ("resume", 3),
        ("pause", 2),
    ]
    assert not untouched.exists()
    assert list(temporary.iterdir()) == []
    assert all(is_gone(pid) for pid in pids)


def test_the_summary_is_plain_text_in_a_pipe(demo: Callable[..., Running]) -> None:
    done = demo("--pace", "0.1", "--limit", "6").ended()
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert "The audit log:" in done.out
    assert "6 of 12 below" in done.out
    assert "all checks hold" in done.out


def test_a_worker_that_is_killed_is_told_of_and_its_job_is_put_back(demo: Callable[..., Running]) -> None:
    running = demo("--pace", "1", "--limit", "8", "--json")
    _, victim, _ = processes(running)
    running.said("Pausing in drain")
    os.kill(victim, signal.SIGKILL)
    done = running.ended()
    assert done.code == 1
    assert "demo-1 ended by itself (signal 9)" in done.err
    summary = done.json
    assert summary["ok"] is False
    failed = {check["name"] for check in summary["checks"] if not check["ok"]}
    assert "Every worker lived to the end" in failed
    # Whether it held a job at that moment or not: nothing is lost.
    right = {check["name"] for check in summary["checks"] if check["ok"]}
    assert {"Every job succeeded", "Every hash is right", "No job started while paused"} <= right
    assert "These checks failed" in done.err


def test_without_any_worker_left_it_ends_with_1_and_says_so(
    demo: Callable[..., Running], temporary: Path
) -> None:
    running = demo("--pace", "2")
    server, *workers = processes(running)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    done = running.ended()
    assert done.code == 1
    assert "No worker is left" in done.err
    assert is_gone(server)
    assert list(temporary.iterdir()) == []


def test_a_server_that_is_killed_ends_it_with_1(demo: Callable[..., Running], temporary: Path) -> None:
    running = demo("--pace", "2", "--json")
    server, *workers = processes(running)
    os.kill(server, signal.SIGKILL)
    done = running.ended()
    assert done.code == 1
    assert done.json["ok"] is False
    assert "server" in done.err
    assert all(is_gone(worker) for worker in workers)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda end: end.name)
def test_a_signal_in_the_middle_leaves_nothing_behind(
    demo: Callable[..., Running], temporary: Path, end: signal.Signals
) -> None:
    running = demo("--pace", "5")
    pids = processes(running)
    os.kill(running.pid, end)
    done = running.ended()
    assert done.code == 1
    assert "processes and files are gone" in done.err
    assert "Traceback" not in done.err
    assert all(is_gone(pid) for pid in pids)
    assert list(temporary.iterdir()) == []


def test_its_processes_end_even_if_it_is_killed(demo: Callable[..., Running]) -> None:
    running = demo("--pace", "5")
    pids = processes(running)
    os.kill(running.pid, signal.SIGKILL)
    until(lambda: all(is_gone(pid) for pid in pids))


def test_keep_leaves_the_server_up_until_ctrl_c(demo: Callable[..., Running], temporary: Path) -> None:
    running = demo("--pace", "0.1", "--limit", "4", "--keep")
    server, *_ = processes(running)
    said = running.said("The server stays up at ")
    url = said.partition("stays up at ")[2].split(",")[0]
    answer = httpx2.get(f"{url}/api/system/worker-pause", trust_env=False)
    assert answer.json()["system"]["version"] == 3
    os.kill(running.pid, signal.SIGINT)
    done = running.ended()
    assert done.code == 0, done.err
    assert is_gone(server)
    assert list(temporary.iterdir()) == []


def test_a_tree_without_python_files_ends_with_2(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = Cli("http://127.0.0.1:1")("demo", "--source", str(empty))
    assert done.code == 2
    assert "no Python file" in done.err
