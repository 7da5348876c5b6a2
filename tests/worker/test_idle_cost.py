"""What a worker costs that has nothing to do: processor time, which does not depend on how busy the machine is."""

import time
from pathlib import Path

import psutil
import pytest

from holdfast_worker.client import Client
from support.servers import Server
from support.workers import start_worker, until

WATCHED_SECONDS = 10
MOST = 0.01


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind is enough: which database the server has is nothing to an idle worker."""
    return sqlite_url


def share(pid: int) -> float:
    """The part of one processor that the process took over some seconds: nothing else could be waited for."""
    process = psutil.Process(pid)

    def taken() -> float:
        times = process.cpu_times()
        return times.user + times.system

    before = taken()
    time.sleep(WATCHED_SECONDS)
    return (taken() - before) / WATCHED_SECONDS


@pytest.mark.parametrize("state", ["idle", "system paused", "locally paused", "server away"])
def test_a_worker_without_work_takes_less_than_a_hundredth_of_a_processor(
    server: Server, client: Client, tmp_path: Path, state: str
) -> None:
    with start_worker(server.url, "w", tmp_path, "--slots", "4") as worker:
        until(lambda: client.status().workers.connected == 1, "the worker")
        if state == "system paused":
            client.pause("quiesce", "nothing to do")
            worker.said("workers_paused")
        elif state == "locally paused":
            switch(tmp_path, "pause")
            worker.said("locally_paused")
        elif state == "server away":
            server.kill()
            worker.said("server_unreachable")
        assert share(worker.pid) < MOST
        worker.kill()


def switch(folder: Path, verb: str) -> None:
    """The operator's switch, as `holdfast worker pause` sets it."""
    import os
    import subprocess
    import sys

    subprocess.run(
        [sys.executable, "-m", "holdfast_worker.cli", "worker", verb, "--worker-id", "w"],
        env=os.environ | {"XDG_RUNTIME_DIR": str(folder / "runtime")},
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=30,
    )
