"""`holdfast serve --workers N`: several processes on one port, and their parent, as operators meet them."""

import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import pytest

from holdfast_server.commands.serve import MOST_FILES
from support.reaper import reaper
from support.servers import Server, start_server

T = TypeVar("T")

PATIENCE = 60.0
PAUSE = "/api/system/worker-pause"


def until(condition: Callable[[], T]) -> T:
    """What the condition answers, as soon as that is true."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it has not come"
        threading.Event().wait(0.02)
    return found


def processes(server: Server) -> list[int]:
    """Those that serve now, the oldest first, as the parent's log has them."""
    ready = [int(pid) for pid in re.findall(r"server_process_ready .*?pid=(\d+)", server.log)]
    ended = [int(pid) for pid in re.findall(r"server_process_ended .*?pid=(\d+)", server.log)]
    return [pid for pid in ready if pid not in ended]


@contextmanager
def serving(url: str, count: int = 2, **environment: str) -> Generator[Server]:
    with start_server(url, "--workers", str(count), **environment) as server:
        started = until(lambda: found if len(found := processes(server)) == count else [])
        for pid in started:
            reaper().watch_process(pid)
        try:
            yield server
        finally:
            for pid in started:
                reaper().forget(pid)


@contextmanager
def alone(server: Server, pid: int) -> Generator[None]:
    """Stop all processes but one, so that it is the one that answers."""
    others = [other for other in processes(server) if other != pid]
    for other in others:
        os.kill(other, signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


def answer_of(server: Server, pid: int, method: str, path: str, **body: Any) -> httpx2.Response:
    """What one of the processes answers. Again where the others were stopped with the store's lock in hand."""

    def ask() -> httpx2.Response | None:
        with alone(server, pid):
            answer = httpx2.request(method, server.url + path, json=body or None, timeout=PATIENCE)
        return None if answer.status_code == 503 else answer

    return until(ask)


def is_gone(server: Server) -> bool:
    """Whether nobody holds the socket any more."""
    parts = urlsplit(server.url)
    try:
        socket.create_connection((parts.hostname, parts.port or 0), 1).close()
    except OSError:
        return True
    return False


def test_each_process_answers_and_a_pause_through_one_is_a_fact_on_the_other(database_url: str) -> None:
    with serving(database_url) as server:
        one, other = processes(server)
        assert server.process.pid not in (one, other)
        for pid in (one, other):
            assert answer_of(server, pid, "GET", "/readyz").json()["ok"] is True
        for _ in range(2):
            answer_of(server, one, "POST", "/api/queue/jobs", type="t")
        pause = answer_of(server, one, "POST", PAUSE, action="pause", mode="drain", reason="a test")
        version = pause.json()["system"]["version"]
        for pid in (other, one):
            claim = answer_of(
                server, pid, "POST", "/api/queue/jobs/claim", workerId=f"w-{pid}", leaseSeconds=60
            ).json()
            assert claim["job"] is None
            assert (claim["system"]["workersPaused"], claim["system"]["version"]) == (True, version)
        answer_of(server, other, "POST", PAUSE, action="resume", reason="a test")
        asked = {"workerId": "w", "leaseSeconds": 60, "waitSeconds": 5}
        claim = until(lambda: answer_of(server, one, "POST", "/api/queue/jobs/claim", **asked).json()["job"])
        assert claim["status"] == "running"


def test_a_server_and_its_processes_take_what_the_host_allows_of_open_files(sqlite_url: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 512
    assert few < hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        with serving(sqlite_url) as server:
            for pid in (server.process.pid, *processes(server)):
                assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == min(hard, MOST_FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_that_is_killed_is_replaced_and_the_others_serve_on(sqlite_url: str) -> None:
    with serving(sqlite_url) as server:
        one, other = processes(server)
        os.kill(one, signal.SIGKILL)
        assert httpx2.get(server.url + "/readyz", timeout=PATIENCE).status_code == 200
        _, new = until(lambda: found if len(found := processes(server)) == 2 and one not in found else [])
        reaper().watch_process(new)
        assert new not in (one, other)
        assert answer_of(server, new, "GET", "/readyz").json()["ok"] is True
        assert re.search(rf"server_process_ended .*pid={one} exit_code=-9", server.log)
        assert server.stop() == 0
        reaper().forget(new)


def test_a_process_that_keeps_ending_is_started_again_more_and_more_slowly(sqlite_url: str) -> None:
    with serving(sqlite_url) as server:
        for _ in range(3):
            before = processes(server)
            os.kill(before[-1], signal.SIGKILL)
            until(lambda: len(now := processes(server)) == 2 and now != before)  # noqa: B023
        rests = [float(rest) for rest in re.findall(r"restart_seconds=([\d.]+)", server.log)]
    assert rests == [0.1, 0.2, 0.4]


def enqueued(server: Server, pid: int) -> float:
    """How many jobs were added, as one of the processes tells Prometheus."""
    text = answer_of(server, pid, "GET", "/metrics").text
    found = re.search(r"^holdfast_jobs_enqueued_total (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_each_process_tells_what_all_have_counted_also_those_that_have_ended(sqlite_url: str) -> None:
    with serving(sqlite_url) as server:
        one, other = processes(server)
        for pid in (one, other, other):
            assert answer_of(server, pid, "POST", "/api/queue/jobs", type="t").status_code == 201
        assert [enqueued(server, pid) for pid in (one, other)] == [3, 3]
        os.kill(other, signal.SIGKILL)
        _, new = until(lambda: found if len(found := processes(server)) == 2 and other not in found else [])
        reaper().watch_process(new)
        assert answer_of(server, new, "POST", "/api/queue/jobs", type="t").status_code == 201
        assert [enqueued(server, pid) for pid in (one, new)] == [4, 4]
        assert server.stop() == 0
        reaper().forget(new)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_to_the_parent_ends_all_of_them_well(database_url: str, sent: signal.Signals) -> None:
    with serving(database_url, 3) as server:
        server.process.send_signal(sent)
        assert server.process.wait(PATIENCE) == 0
        assert is_gone(server)
        assert "Traceback" not in server.log
        assert "error" not in server.log


def test_ctrl_c_again_does_not_wait_for_the_calls_in_flight(sqlite_url: str) -> None:
    # In order it takes the seconds that calls in flight are given, on top of what it takes on this machine now.
    assert seconds_to_end(sqlite_url, again=True) < seconds_to_end(sqlite_url, again=False)


def seconds_to_end(sqlite_url: str, *, again: bool) -> float:
    """From the moment in which nobody is let in any more, while a call is in flight."""
    body = {"workerId": "w", "leaseSeconds": 60, "waitSeconds": 25}
    with serving(sqlite_url) as server, ThreadPoolExecutor() as threads:

        def claim() -> object:
            try:
                return httpx2.post(server.url + "/api/queue/jobs/claim", json=body, timeout=PATIENCE)
            except httpx2.TransportError as error:
                return error

        held = threads.submit(claim)
        until(lambda: httpx2.get(server.url + PAUSE).json()["workers"]["connected"])
        server.process.send_signal(signal.SIGINT)
        until(lambda: is_gone(server))
        if again:
            server.process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert server.process.wait(PATIENCE) == 0
        taken = time.monotonic() - begun
        held.result(PATIENCE)
        return taken


def test_a_parent_that_is_killed_leaves_nobody_behind(sqlite_url: str) -> None:
    with serving(sqlite_url) as server:
        assert not is_gone(server)
        server.kill()
        until(lambda: is_gone(server))


def test_a_database_that_cannot_be_used_is_one_line_and_nothing_stays(tmp_path: Any) -> None:
    with pytest.raises(AssertionError, match="is not ready") as caught:  # noqa: SIM117
        with start_server("postgresql://nobody:secret@127.0.0.1:1/none", "--workers", "2"):
            pass
    told = "\n".join(caught.value.__notes__)
    assert "Error: The database cannot be used" in told
    assert "secret" not in told
    assert "Traceback" not in told


def test_the_schema_is_not_made_by_those_who_are_told_not_to(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/holdfast.db"
    with pytest.raises(AssertionError, match="is not ready") as caught:  # noqa: SIM117
        with start_server(url, "--workers", "2", HOLDFAST_MIGRATE_ON_START="false"):
            pass
    assert "holdfast migrate" in "\n".join(caught.value.__notes__)
