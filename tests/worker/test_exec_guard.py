"""The guard: commands of a worker that cannot end them itself do not go on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from holdfast_worker.runtime.execution import command_handler
from holdfast_worker.runtime.execution.guard import Guard
from holdfast_worker.runtime.lease import Lease
from support.exec_harness import FakeJob, alive, running
from support.exec_harness import until as until_async
from support.workers import until

#: Says when it begins and when it is asked to end; in the latter case it ends, or does not.
GROUP = """
import os, signal, sys, time
def asked(*_):
    os.write(1, b"asked\\n")
    {then}
signal.signal(signal.SIGTERM, asked)
os.write(1, b"begun\\n")
while True:
    time.sleep(60)
"""


class Group:
    """A process that leads a group of its own."""

    def __init__(self, then: str = "os._exit(0)") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", GROUP.format(then=then)], stdout=subprocess.PIPE, start_new_session=True
        )
        assert self.process.stdout is not None
        self.stdout = self.process.stdout
        assert self.stdout.readline() == b"begun\n"
        self.id = self.process.pid

    def ended(self) -> int:
        """How it ended, which is waited for."""
        return self.process.wait(30)

    @property
    def runs(self) -> bool:
        return self.process.poll() is None


@pytest.fixture
def group() -> Generator[Group]:
    group = Group()
    yield group
    end(group)


@pytest.fixture
def stubborn() -> Generator[Group]:
    """One that does not end when it is asked to."""
    group = Group("pass")
    yield group
    end(group)


def end(group: Group) -> None:
    group.process.kill()
    group.process.wait()
    group.stdout.close()


@pytest.fixture
def guard() -> Generator[Guard]:
    guard = Guard()
    yield guard
    guard.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder\nwith an odd näme"
    folder.mkdir()
    (folder / "payload.json").touch()
    return folder


def process_of(guard: Guard) -> psutil.Process:
    assert guard.pid is not None
    return psutil.Process(guard.pid)


def settle(guard: Guard) -> None:
    """Wait until the guard ignores the signals that it ignores, and waits for more."""
    ignored = 0
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        ignored |= 1 << (sign - 1)

    def ignores() -> bool:
        status = Path(f"/proc/{guard.pid}/status").read_text()
        mask = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
        return int(mask.split()[1], 16) & ignored == ignored

    until(ignores, "the guard")


def test_no_guard_is_begun_before_the_first_command(guard: Guard, group: Group, folder: Path) -> None:
    guard.renew(group.id, None)
    guard.forget(group.id)
    assert guard.pid is None
    guard.watch(group.id, folder, None)
    assert guard.pid is not None


def test_when_the_pipe_closes_the_groups_end_and_their_folders_go(
    guard: Guard, group: Group, stubborn: Group, folder: Path
) -> None:
    guard.watch(group.id, folder, None)
    guard.watch(stubborn.id, folder.parent / "none", time.monotonic() + 600)
    guard.close()
    assert (group.ended(), stubborn.ended()) == (0, -signal.SIGKILL)
    assert stubborn.stdout.readline() == b"asked\n", "it was not asked before it was killed"
    assert not folder.exists()


def test_a_group_whose_deadline_passes_is_killed_and_no_other(
    guard: Guard, group: Group, stubborn: Group, folder: Path
) -> None:
    guard.watch(group.id, folder, time.monotonic() + 600)
    deadline = time.monotonic() + 0.5
    guard.watch(stubborn.id, folder, deadline)
    assert stubborn.ended() == -signal.SIGKILL
    assert deadline <= time.monotonic() < deadline + 5
    assert group.runs
    assert folder.exists(), "the worker may look at it once it is awake"


def test_a_deadline_that_is_renewed_is_the_new_one(guard: Guard, group: Group, folder: Path) -> None:
    began = time.monotonic()
    guard.watch(group.id, folder, began + 0.5)
    guard.renew(group.id, began + 2)
    assert group.ended() == -signal.SIGKILL
    assert time.monotonic() >= began + 2


def test_while_a_job_is_parked_there_is_no_deadline(
    guard: Guard, group: Group, stubborn: Group, folder: Path
) -> None:
    began = time.monotonic()
    guard.watch(group.id, folder, began + 0.5)
    guard.renew(group.id, None)
    guard.watch(stubborn.id, folder, began + 1)
    assert stubborn.ended() == -signal.SIGKILL
    assert group.runs
    guard.renew(group.id, time.monotonic())
    assert group.ended() == -signal.SIGKILL


def test_what_has_ended_is_let_alone(guard: Guard, group: Group, folder: Path) -> None:
    guard.watch(group.id, folder, time.monotonic() + 0.5)
    guard.forget(group.id)
    guard.close()
    assert group.runs
    assert folder.exists()


def test_the_guard_outlives_what_a_terminal_or_a_service_sends(
    guard: Guard, group: Group, folder: Path
) -> None:
    guard.watch(group.id, folder, None)
    assert guard.pid is not None
    settle(guard)
    assert os.getsid(guard.pid) == guard.pid
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guard.pid, sign)
    guard.renew(group.id, time.monotonic())
    assert group.ended() == -signal.SIGKILL
    assert process_of(guard).is_running()


def test_a_guard_that_was_killed_is_replaced_and_told_all(
    guard: Guard, group: Group, stubborn: Group, folder: Path
) -> None:
    guard.watch(group.id, folder, None)
    first = guard.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(first), "its end")
    guard.watch(stubborn.id, folder, time.monotonic() + 600)
    assert guard.pid != first
    guard.close()
    assert (group.ended(), stubborn.ended()) == (0, -signal.SIGKILL)


def test_a_guard_that_hangs_does_not_hang_the_worker(guard: Guard, group: Group, folder: Path) -> None:
    guard.watch(group.id, folder, None)
    first = guard.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    began = time.monotonic()
    for number in range(10_000):
        guard.renew(group.id, began + 600 + number)
        if guard.pid != first:
            break
    assert guard.pid != first
    assert time.monotonic() - began < 10
    guard.close()
    assert group.ended() == 0


def test_where_no_guard_can_be_begun_that_is_told_once(
    guard: Guard,
    group: Group,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    guard.watch(group.id, folder, None)
    guard.renew(group.id, time.monotonic())
    guard.forget(group.id)
    guard.watch(group.id, folder, None)
    guard.close()
    said = capsys.readouterr()
    assert (said.out + said.err).count("command_guard_missing") == 1
    assert group.runs


def test_a_guard_is_small_and_does_nothing_while_nothing_happens(
    guard: Guard, group: Group, folder: Path
) -> None:
    guard.watch(group.id, folder, time.monotonic() + 600)
    settle(guard)
    process = process_of(guard)
    assert process.memory_full_info().uss < 8_000_000
    assert process.num_threads() == 1

    def times() -> tuple[float, int]:
        used = process.cpu_times()
        return used.user + used.system, process.num_ctx_switches().voluntary

    before = times()
    time.sleep(1)  # nothing happens: there is nothing to wait for
    assert times() == before


WORKER = """
import sys, time
import anyio
from holdfast_worker.runtime.execution import command_handler
from support.exec_harness import FakeJob
from holdfast_worker.runtime.lease import Lease

async def main():
    job = FakeJob({"a": 1}, Lease(float(sys.argv[1]), asked_at=time.monotonic()))
    await command_handler(sys.argv[2])(job)

anyio.run(main)
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM], ids=lambda sign: sign.name)
def test_a_worker_that_dies_leaves_nothing_behind(tmp_path: Path, sign: signal.Signals) -> None:
    pids = tmp_path / "pids"
    command = f"sleep 60 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"
    folders = tmp_path / "folders"
    folders.mkdir()
    with start(60, command, folders) as worker:
        until(pids.exists, "the command")
        group = [int(pid) for pid in pids.read_text().split()]
        guards = [child.pid for child in psutil.Process(worker.pid).children() if child.pid not in group]
        assert len(guards) == 1
        assert len(list(folders.iterdir())) == 1
        worker.send_signal(sign)
        worker.wait(30)
        until(lambda: not any(map(alive, group)), "the end of the group", 5)
        until(lambda: not any(map(alive, guards)), "the end of the guard", 5)
    assert list(folders.iterdir()) == []


def test_a_worker_that_is_frozen_past_its_lease_has_its_command_killed_in_time(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    beats.touch()
    write = f"open({str(beats)!r}, 'a').write(str(time.monotonic()) + '\\n')"
    beat = f"import time\nwhile True:\n {write}\n time.sleep(0.02)"
    with start(4, f"trap '' TERM; {sys.executable} -c \"{beat}\"", tmp_path) as worker:
        until(beats.read_text, "the command")
        began = float(beats.read_text().split()[0])
        worker.send_signal(signal.SIGSTOP)
        until(lambda: time.monotonic() - float(beats.read_text().split()[-1]) > 1, "the end of the command")
        # It began after its claim was asked for.
        assert float(beats.read_text().split()[-1]) < began + 4
        worker.kill()


def start(lease: float, command: str, folder: Path) -> "subprocess.Popen[bytes]":
    """A process that runs one command as a worker does."""
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(lease), command],
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(folder)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.anyio
async def test_the_guard_follows_the_lease_and_the_phase_of_its_job() -> None:
    handler = command_handler("echo $$; sleep 60")
    job = FakeJob(lease=Lease(1.5, asked_at=time.monotonic()), parked=True)
    async with running(handler, job) as at_work:
        await until_async(
            lambda: job.said and time.monotonic() > job.lease.until + 0.3, "the end of the lease"
        )
        assert alive(int(job.text())), "a parked job does nothing, and may stay"
        job.lease.renewed(asked_at=time.monotonic())
        job.parked = False
        job.lease.tell()
        await at_work.done.wait()
        assert time.monotonic() >= job.lease.deadline
    assert "killed by SIGKILL" in str(at_work.error)
    assert job.lease.listeners == []
    handler.close()


@pytest.mark.anyio
async def test_a_command_that_was_killed_with_its_lease_leaves_the_word_to_the_worker() -> None:
    handler = command_handler("echo begun; sleep 60")
    job = FakeJob(lease=Lease(2, asked_at=time.monotonic()))
    async with running(handler, job) as at_work:
        await until_async(lambda: job.said and time.monotonic() > job.lease.until, "the end of the lease")
        at_work.scope.cancel()
        await at_work.done.wait()
    assert at_work.error is None
    assert at_work.scope.cancelled_caught
    handler.close()


@pytest.mark.anyio
async def test_a_handler_that_is_no_more_has_no_guard() -> None:
    handler = command_handler("true")
    await handler(FakeJob())  # type: ignore[arg-type]
    guard = handler.guard.pid
    assert guard is not None
    assert alive(guard)
    del handler
    with suppress(AssertionError):
        until(lambda: not alive(guard), seconds=5)
    assert not alive(guard)
