"""A real `holdfast serve`, in a process of its own.

    with start_server(database_url, HOLDFAST_PAUSE_POLL_INTERVAL_MS="100") as server:
        httpx2.get(server.url + "/readyz")

or the same with `async with`. Where the block fails, the error carries the end of the server's log.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Final, Self

from anyio import CancelScope
from anyio.to_thread import run_sync

from support.ports import lasting_port
from support.reaper import reaper

__all__ = ["Server", "program", "start_server"]

SECONDS_TO_START: Final = 60.0
SECONDS_TO_STOP: Final = 20.0
#: How much of the log a failure shows.
LINES_SHOWN: Final = 60

_READY: Final = re.compile(r"Holdfast is ready at (https?://\S+)")


def start_server(
    database_url: str, /, *options: str, command: Sequence[str] = (), **environment: str
) -> "Server":
    """`holdfast serve` on the database, at a port of its own; a context manager, sync and async.

    `options` go to the command line, `environment` (full names, such as HOLDFAST_LOG_FORMAT) on top of ours.
    `command`: what to run in place of `holdfast`.
    """
    arguments = ["serve", "--port", str(lasting_port()), *options]
    return Server(arguments, {"HOLDFAST_DATABASE_URL": database_url, **environment}, command or [program()])


def program() -> str:
    """The command `holdfast` of this environment."""
    found = shutil.which("holdfast", path=sysconfig.get_path("scripts"))
    assert found, "the command `holdfast` is not beside this Python: pip install -e '.[server]'"
    return found


class Server:
    """The process, and where it answers. `stop` and `kill` may be called at any time, more than once."""

    url: str
    process: subprocess.Popen[str]

    def __init__(self, arguments: list[str], environment: dict[str, str], command: Sequence[str]) -> None:
        self._arguments = [*command, *arguments]
        self._environment = environment
        self._log: IO[bytes]
        self._ready = threading.Event()
        self._first_line = ""
        self._killed = False

    @property
    def log(self) -> str:
        """What it has written to stderr so far."""
        return os.pread(self._log.fileno(), 1 << 26, 0).decode(errors="replace")

    def stop(self) -> int:
        """SIGTERM, and wait. Returns the exit code; one that does not end in time is killed and an error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not stop within {SECONDS_TO_STOP} s of SIGTERM") from None
        finally:
            reaper().forget(self.process.pid)

    def kill(self) -> None:
        """SIGKILL, and wait: what a crash looks like from outside."""
        self._killed = True
        self.process.kill()
        self.process.wait(SECONDS_TO_STOP)
        reaper().forget(self.process.pid)

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile("wb+", prefix="holdfast-server-")
        self.process = subprocess.Popen(
            self._arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | self._environment,
            start_new_session=True,  # Ctrl-C is for the tests, which then stop the server
        )
        reaper().watch_process(self.process.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._ready.wait(SECONDS_TO_START)
            ready = _READY.fullmatch(self._first_line)
            if ready is None:
                raise AssertionError(f"the server is not ready; its stdout begins with {self._first_line!r}")
            self.url = ready[1]
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close(error)

    async def __aenter__(self) -> Self:
        return await run_sync(self.__enter__)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        with CancelScope(shield=True):  # a test that was cancelled ends its server too
            await run_sync(self._close, error)

    def _read(self) -> None:
        """Keep the pipe from filling. Its first line says where the server is, its end that there is none."""
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed under our hands
            self._first_line = self.process.stdout.readline().rstrip("\n")
            self._ready.set()
            for _ in self.process.stdout:
                pass

    def _close(self, error: BaseException | None) -> None:
        try:
            code = self.stop()
            if error is None and not self._killed:
                assert code == 0, f"the server ended with exit code {code}"
        except AssertionError as failure:
            failure.add_note(self._tail())
            raise
        finally:
            if error is not None:
                error.add_note(self._tail())
            assert self.process.stdout is not None
            self._reader.join(SECONDS_TO_STOP)
            self.process.stdout.close()
            self._log.close()

    def _tail(self) -> str:
        lines = self.log.splitlines()[-LINES_SHOWN:]
        return "\n".join(["--- the server's log ends so:", *lines, "---"])
