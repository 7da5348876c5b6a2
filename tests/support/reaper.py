"""What the tests start ends with them, even if they are killed without a chance to clean up.

A small process of its own holds the reading end of a pipe. It is told what was started, and when the pipe
closes, because its parent ended in whatever way, it ends what is left. Run as a script, this file is that
process.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final

__all__ = ["Reaper", "reaper"]

#: How long a process may take to end after its signal, before it is killed.
SECONDS_TO_END: Final = 5.0


class Reaper:
    """The one process of a test session that survives it for a moment."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            start_new_session=True,  # what is typed at the terminal is for the tests
        )
        atexit.register(self.close)

    def watch_process(self, pid: int, sign: signal.Signals = signal.SIGKILL) -> None:
        """End `pid` with `sign` if this process dies first."""
        self._tell(f"process {pid} {sign.value}")

    def watch_folder(self, path: str) -> None:
        """Remove `path` if this process dies first."""
        self._tell(f"folder {path}")

    def watch_mount(self, path: str) -> None:
        """Unmount what is at `path` if this process dies first."""
        self._tell(f"mount {path}")

    def forget(self, what: int | str) -> None:
        """A process that has been waited for, or a folder that is gone."""
        self._tell(f"forget {what}")

    def close(self) -> None:
        """End the reaper itself. What it still watches ends too."""
        atexit.unregister(self.close)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()


_reaper: list[Reaper] = []


def reaper() -> Reaper:
    """This process's reaper, started at the first call."""
    if not _reaper:
        _reaper.append(Reaper())
    return _reaper[0]


def _serve() -> None:
    processes: dict[str, int] = {}
    folders: list[str] = []
    mounts: list[str] = []
    for line in sys.stdin:
        match line.rstrip("\n").split(" ", 1):
            case ["process", text]:
                pid, sign = text.split(" ")
                processes[pid] = int(sign)
            case ["folder", path]:
                folders.append(path)
            case ["mount", path]:
                mounts.append(path)
            case ["forget", what]:
                processes.pop(what, None)
                for paths in (folders, mounts):
                    if what in paths:
                        paths.remove(what)
            case _:
                raise ValueError(line)
    for pid, sign in processes.items():
        _end(int(pid), sign)
    for path in mounts:
        subprocess.run(["umount", "--lazy", path], check=False)
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)


def _end(pid: int, sign: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, sign)
        give_up = time.monotonic() + SECONDS_TO_END
        while time.monotonic() < give_up:
            os.kill(pid, 0)
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
