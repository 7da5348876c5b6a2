"""The operator's switch of one worker (studio; ST-01 to ST-05)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast_core.states import JobStatus, WorkerState
from holdfast_worker.client import Client
from support.servers import Server
from support.workers import PATIENCE_SECONDS, Ledger, start_worker, until

TRANSPORTS = pytest.mark.parametrize("transport", ["auto", "http", "mcp"])


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind is enough: which database the server has is nothing to a worker's own switch."""
    return sqlite_url


def switch(folder: Path, *arguments: str) -> Any:
    """`holdfast worker …` beside the worker; what it says as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "holdfast_worker.cli", "worker", *arguments, "--json"],
        env=os.environ | {"XDG_RUNTIME_DIR": str(folder / "runtime")},
        check=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    return json.loads(done.stdout)


@TRANSPORTS
@pytest.mark.requirement("ST-01", "ST-02", "ST-04")
def test_a_locally_paused_worker_finishes_its_job_takes_nothing_new_and_says_so(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger, transport: str
) -> None:
    first = client.enqueue("t", ledger.payload(steps=10, seconds=0.1))
    options = ("--transport", transport, "--slots", "2")
    with start_worker(server.url, "w", tmp_path, *options) as worker:
        until(lambda: ledger.lines("past", first.id), "the first step")
        assert switch(tmp_path, "pause")["locallyPaused"] is True
        until(lambda: not client.workers().items[0].auto_enabled, "the server to hear of it")
        second = client.enqueue("t", ledger.payload())
        until(lambda: client.job(first.id).status is JobStatus.SUCCEEDED, "the end of the job in flight")
        assert len(ledger.lines("begin", first.id)) == 1

        # A pause of the system comes and goes: it is another matter.
        client.pause("drain", "an upgrade")
        client.resume("done")
        version = client.status().system.version
        until(lambda: client.workers().items[0].observed_version == version, "the worker to have seen both")
        (view,) = client.workers().items
        assert (view.auto_enabled, view.state, view.jobs) == (False, WorkerState.PAUSED, [])
        assert client.job(second.id).status is JobStatus.QUEUED
        assert switch(tmp_path, "status")["variant"] == "paused"

        assert switch(tmp_path, "resume")["locallyPaused"] is False
        until(lambda: client.job(second.id).status is JobStatus.SUCCEEDED, "the second job")
        assert client.workers().items[0].auto_enabled
        assert worker.stop() == 0
        assert worker.count("locally_paused") == worker.count("locally_resumed") == 1


@pytest.mark.requirement("ST-01")
def test_a_worker_that_is_started_again_is_not_paused(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    with start_worker(server.url, "w", tmp_path) as worker:
        worker.said("worker_started")
        switch(tmp_path, "pause")
        worker.kill()
    with start_worker(server.url, "w", tmp_path) as worker:
        worker.said("worker_started")
        assert switch(tmp_path, "status")["locallyPaused"] is False
        job = client.enqueue("t", ledger.payload())
        until(lambda: client.job(job.id).status is JobStatus.SUCCEEDED, "the job")
        assert worker.stop() == 0


@TRANSPORTS
@pytest.mark.requirement("ST-03")
def test_a_job_that_comes_in_the_moment_of_the_pause_goes_back_unharmed(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger, transport: str
) -> None:
    """The switch is flipped again and again while jobs come in: none is lost, doubled, or uses an attempt."""
    jobs = []
    with start_worker(server.url, "w", tmp_path, "--transport", transport, "--slots", "2") as worker:
        worker.said("worker_started")
        for _ in range(3):
            jobs += [
                client.enqueue("t", ledger.payload(steps=1, seconds=0), max_attempts=1) for _ in range(4)
            ]
            switch(tmp_path, "pause")
            switch(tmp_path, "resume")
        until(lambda: len(client.jobs(status="succeeded", limit=50).items) == len(jobs), "all jobs")
        assert worker.stop() == 0
    for job in jobs:
        assert client.job(job.id).attempt == 1
        assert [line.what for line in ledger.lines(job=job.id)] == ["begin", "at", "past", "end"]


@pytest.mark.requirement("ST-05")
def test_a_worker_in_code_is_flipped_from_any_thread_and_the_command_line_shows_it(
    server: Server, client: Client, tmp_path: Path, ledger: Ledger
) -> None:
    script = tmp_path / "own.py"
    script.write_text(
        "import sys, threading\n"
        "from holdfast import Worker\n"
        "from handlers import steps\n"
        f"worker = Worker(steps, url={server.url!r}, worker_id='own', token='')\n"
        "def listen():\n"
        "    for line in sys.stdin:\n"
        "        getattr(worker, line.strip())()\n"
        "        print(worker.locally_paused, flush=True)\n"
        "threading.Thread(target=listen, daemon=True).start()\n"
        "worker.run()\n"
    )
    (tmp_path / "runtime").mkdir(mode=0o700)
    from support.workers import HERE

    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path / "runtime"), "PYTHONPATH": str(HERE)},
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        until(lambda: client.status().workers.connected == 1, "the worker")
        process.stdin.write("pause\n")
        process.stdin.flush()
        assert process.stdout.readline() == "True\n"
        assert switch(tmp_path, "status")["locallyPaused"] is True
        until(lambda: not client.workers().items[0].auto_enabled, "the server to hear of it")
        assert switch(tmp_path, "resume")["locallyPaused"] is False
        process.stdin.write("stop\n")
        process.stdin.flush()
        assert process.stdout.readline() == "False\n"
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
