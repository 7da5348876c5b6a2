"""The control port of a real worker process: what flips its pause shows what the others set, and none outlives it."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from holdfast_worker.client import Client
from holdfast_worker.runtime.control.asking import read_status
from holdfast_worker.runtime.discovery import running_workers
from holdfast_worker.tray.model import TrayModel
from support.browser import chromium
from support.servers import Server, start_server
from support.workers import Ledger, WorkerProcess, start_worker, until


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where start_worker has its workers keep their files.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def one_server(sqlite_url: str) -> Generator[Server]:
    """On one kind of database: none of this asks it anything."""
    with start_server(sqlite_url) as server:
        yield server


@contextmanager
def worker_run(server: Server, folder: Path, *options: str) -> Generator[WorkerProcess]:
    """`holdfast worker run`, idle."""
    with start_worker(server.url, "w", folder, "--transport", "http", *options, handler="busy") as worker:
        worker.said("worker_started")
        until(lambda: status()["variant"] == "idle", "the first word of the server")
        yield worker


def holdfast(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "holdfast_worker.cli", "worker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def status() -> Any:
    """What the port says."""
    (found,) = running_workers()
    return json.loads(read_status(found))


@pytest.mark.requirement("ST-01", "ST-05")
def test_verbs_page_and_tray_show_what_the_others_set_and_a_restart_comes_back_unpaused(
    one_server: Server, tmp_path: Path
) -> None:
    tray = TrayModel("w")
    with chromium() as browser, worker_run(one_server, tmp_path) as process:
        assert json.loads(holdfast("status", "--json").stdout)["pid"] == process.pid
        page = browser.new_page()
        page.goto(holdfast("status", "--print-url").stdout.strip())
        badge = page.locator("#badge")
        expect(badge).to_have_text("Idle")
        assert holdfast("pause").returncode == 0
        expect(badge).to_have_text("Paused")
        assert (tray.look().variant, tray.view.switch) == ("paused", "resume")
        tray.turn()
        expect(badge).to_have_text("Idle")
        assert status()["locallyPaused"] is False
        with Client(one_server.url, token="") as client:
            client.pause("drain", "upgrade")
            expect(page.locator("#words")).to_have_text("Paused by the system; no job.")
            page.locator("#pause").click()
            expect(page.locator("#words")).to_have_text("Paused by its operator, and by the system; no job.")
            assert (tray.look().variant, status()["locallyPaused"]) == ("paused", True)
            client.resume("done")
        until(lambda: not status()["system"]["workersPaused"], "the system's resume")
        assert status()["locallyPaused"] is True, "a resume of the system does not clear it"
        assert process.stop() == 0
        expect(page.locator("#words")).to_have_text("The worker does not answer.")
        assert tray.look().alive is False
        assert holdfast("status").returncode == 6
    with worker_run(one_server, tmp_path):
        assert (status()["locallyPaused"], tray.look().variant) == (False, "idle")


@pytest.mark.requirement("ST-04")
def test_a_local_pause_takes_nothing_new_and_leaves_the_job_in_flight_alone(
    one_server: Server, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    with (
        Client(one_server.url, token="") as client,
        worker_run(one_server, tmp_path, "--slots", "2") as process,
    ):
        first = client.enqueue("t", ledger.payload(seconds=60))
        until(lambda: ledger.lines("begin"), "the job's begin")
        assert holdfast("pause").stderr == "The worker w takes nothing new; 1 job goes on.\n"
        client.enqueue("t", ledger.payload(seconds=60))
        found = status()
        assert ([job["id"] for job in found["jobs"]], found["variant"]) == ([str(first.id)], "paused")
        until(
            lambda: [view.auto_enabled for view in client.workers().items] == [False], "what the server knows"
        )
        assert [line.what for line in ledger.lines()] == ["begin"]
        assert holdfast("resume").returncode == 0
        until(lambda: len(ledger.lines("begin")) == 2, "the second job")
        assert process.process.poll() is None


def test_stop_by_the_verb_ends_the_worker_in_good_order(one_server: Server, tmp_path: Path) -> None:
    with worker_run(one_server, tmp_path) as process:
        said = holdfast("stop")
        assert (said.returncode, said.stderr) == (0, f"The worker w (process {process.pid}) ends.\n")
        assert process.ended() == 0
    assert running_workers() == []


def test_a_second_worker_of_the_same_id_on_this_host_is_refused_with_a_way_out(
    one_server: Server, tmp_path: Path
) -> None:
    with worker_run(one_server, tmp_path) as first:
        with start_worker(one_server.url, "w", tmp_path, "--transport", "http") as second:
            assert second.ended() == 1
            assert f"runs on this host already (process {first.pid})" in second.text
            assert "--worker-id" in second.text
            assert "Traceback" not in second.text
        assert status()["pid"] == first.pid
