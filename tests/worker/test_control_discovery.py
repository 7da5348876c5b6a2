"""How the workers of a host are found, and what keeps two of one id apart."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast_core.errors import ConfigurationError
from holdfast_worker.runtime import discovery
from holdfast_worker.runtime.discovery import WorkerIdTaken, announced, running_workers
from support.control_port import ask, steered
from support.reaper import reaper
from support.workers import until

URL = "http://127.0.0.1:1"
KEEPS = """
import sys, time
from holdfast_worker.runtime.discovery import announced
with announced(sys.argv[1], "http://127.0.0.1:1", "token"):
    print("here", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    # Of this host's own workers, and of what is left of them, these tests know nothing.
    monkeypatch.setattr(discovery.tempfile, "gettempdir", lambda: str(tmp_path / "none"))
    return tmp_path


def keeper(worker_id: str) -> "subprocess.Popen[str]":
    """Another process that is announced."""
    process = subprocess.Popen(
        [sys.executable, "-c", KEEPS, worker_id], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    reaper().watch_process(process.pid)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


def end(process: "subprocess.Popen[str]", sign: signal.Signals) -> None:
    process.send_signal(sign)
    process.communicate(timeout=20)
    reaper().forget(process.pid)


def test_workers_are_listed_by_id_while_they_run() -> None:
    assert running_workers() == []
    with announced("b", URL, "token-b") as b, announced("a", URL, "token-a") as a:
        assert running_workers() == [a.found, b.found]
        assert "token-a" not in repr(a.found)
    assert running_workers() == []


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_dead_worker_left_behind_is_known_as_such_and_taken_over(
    runtime: Path, sign: signal.Signals
) -> None:
    process = keeper("w")
    assert [found.pid for found in running_workers()] == [process.pid]
    end(process, sign)
    (left,) = (runtime / "holdfast" / "workers").glob("*.json")
    assert running_workers() == []
    with announced("w", URL, "mine") as mine:
        assert running_workers() == [mine.found]
        assert b"mine" in left.read_bytes()


def test_a_second_worker_of_an_id_is_refused_and_told_the_way_out() -> None:
    process = keeper("w")
    try:
        with pytest.raises(WorkerIdTaken) as caught, announced("w", URL, "second"):
            pass
        assert (caught.value.worker_id, caught.value.pid) == ("w", process.pid)
        for word in ("'w'", f"process {process.pid}", "--worker-id"):
            assert word in str(caught.value)
        assert [found.token for found in running_workers()] == ["token"], "the first is as it was"
    finally:
        end(process, signal.SIGKILL)


def test_a_second_worker_of_an_id_is_refused_within_one_process() -> None:
    with steered("w") as first:
        with pytest.raises(WorkerIdTaken), steered("w"):
            pass
        assert ask(first.control.url, "GET", "/status", first.control.token).status == 200
    with steered("w"):
        pass


def test_who_only_looks_does_not_keep_a_worker_from_its_start() -> None:
    with announced("w", URL, "token"):
        pass
    lock = next(Path(os.environ["XDG_RUNTIME_DIR"]).glob("holdfast/workers/*.lock"))
    looks = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print('here', flush=True);"
            " time.sleep(0.3)",
            str(lock),
        ],
        stdout=subprocess.PIPE,
    )
    assert looks.stdout is not None
    assert looks.stdout.readline() == b"here\n"
    with announced("w", URL, "token"):
        assert len(running_workers()) == 1
    looks.communicate(timeout=20)


@pytest.mark.parametrize(
    ("one", "other"),
    [("w", "W"), ("a/b", "a%2Fb"), ("x" * 128, "x" * 127 + "y"), ("/" * 128, "/" * 127), (".", "..")],
)
def test_ids_that_look_alike_to_a_file_system_are_kept_apart(one: str, other: str) -> None:
    with announced(one, URL, "1") as first, announced(other, URL, "2") as second:
        assert sorted(running_workers(), key=lambda found: found.token) == [first.found, second.found]
        names = {
            path.name.casefold()
            for path in Path(os.environ["XDG_RUNTIME_DIR"]).glob("holdfast/workers/*.json")
        }
        assert len(names) == 2


def test_what_is_no_file_of_ours_is_passed_over(runtime: Path) -> None:
    with announced("w", URL, "token") as mine:
        folder = runtime / "holdfast" / "workers"
        process = keeper("broken")
        try:
            (broken,) = folder.glob("broken-*.json")
            for content in (b"", b"{}", b"[1]", b'{"workerId": 1}', b"\xff", b"x" * 100_000):
                broken.write_bytes(content)
                assert running_workers() == [mine.found]
            (folder / "stray.json").write_text("{}")
            assert running_workers() == [mine.found]
        finally:
            end(process, signal.SIGKILL)


@pytest.mark.parametrize("part", ["holdfast", "holdfast/workers"])
def test_a_folder_that_others_may_write_is_refused(runtime: Path, part: str) -> None:
    with announced("w", URL, "token"):
        pass
    (runtime / part).chmod(0o770)
    with (
        pytest.raises(ConfigurationError, match=r"may be written by others.*XDG_RUNTIME_DIR"),
        announced("w", URL, "token"),
    ):
        pass
    with pytest.raises(ConfigurationError, match="may be written by others"):
        running_workers()


def test_a_folder_that_others_may_only_read_is_closed_to_them(runtime: Path) -> None:
    (runtime / "holdfast" / "workers").mkdir(parents=True)
    for one in (runtime / "holdfast", runtime / "holdfast" / "workers"):
        one.chmod(0o755)
    with announced("w", URL, "token"):
        for one in (runtime / "holdfast", runtime / "holdfast" / "workers"):
            assert one.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_a_link_is_refused(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (runtime / "holdfast").mkdir(mode=0o700)
    (runtime / "holdfast" / "workers").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="is not a folder"), announced("w", URL, "token"):
        pass


def test_a_folder_that_somebody_else_owns_is_refused(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with announced("w", URL, "token"):
        pass
    monkeypatch.setattr(discovery.os, "geteuid", lambda: runtime.stat().st_uid + 1)
    monkeypatch.setattr(discovery, "_runtime_path", lambda *, make: runtime / "holdfast")
    with pytest.raises(ConfigurationError, match="belongs to somebody else"), announced("w", URL, "token"):
        pass
    with pytest.raises(ConfigurationError, match="belongs to somebody else"):
        running_workers()


def test_what_was_tidied_away_is_written_again(runtime: Path) -> None:
    with announced("w", URL, "token") as mine:
        (file,) = (runtime / "holdfast" / "workers").glob("*.json")
        file.unlink()
        assert running_workers() == []
        mine.renew()
        assert running_workers() == [mine.found]
        os.utime(file, (0, 0))
        mine.renew()
        assert file.stat().st_mtime > 1_000_000


def test_a_worker_that_a_service_started_without_a_runtime_folder_is_found(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fallback = runtime / "tmp" / f"runtime-{os.geteuid()}"
    fallback.mkdir(parents=True, mode=0o700)
    with monkeypatch.context() as service:
        service.setenv("XDG_RUNTIME_DIR", str(fallback))
        process = keeper("service")
    try:
        assert running_workers() == []
        monkeypatch.setattr(discovery.tempfile, "gettempdir", lambda: str(runtime / "tmp"))
        assert [found.worker_id for found in running_workers()] == ["service"]
        (fallback / "holdfast").chmod(0o777)
        assert until(lambda: running_workers() == []), (
            "a folder that others may write is no place to look into"
        )
    finally:
        end(process, signal.SIGKILL)
