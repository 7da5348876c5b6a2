"""The dead man's switch, as the worker sees it.

A worker that is killed, or stopped (SIGSTOP) for longer than its lease, cannot end its commands; they would go on
beside whoever runs their jobs next. So a small process of its own, the guard, is told of each group of processes and of
its deadline. When the worker is gone it ends all groups, when a deadline passes without a renewal it kills that one.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

__all__ = ["Guard"]

log = structlog.get_logger(__name__)

SCRIPT: Final = Path(__file__).with_name("guard_process.py")
#: The guard ends as soon as its pipe does.
SECONDS_TO_END: Final = 5.0


@dataclass
class _Watched:
    folder: Path
    deadline: float | None


class Guard:
    """One guard process, begun with the first command. Without one (on Windows, say) commands run unguarded, which is
    told once."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._watched: dict[int, _Watched] = {}
        self._is_missing = False

    @property
    def pid(self) -> int | None:
        """The process; None before the first command."""
        return None if self._process is None else self._process.pid

    @property
    def watched(self) -> set[int]:
        """The groups that it is to end."""
        return set(self._watched)

    def watch(self, group: int, folder: Path, deadline: float | None) -> None:
        """A group of processes has begun. `deadline`: on time.monotonic(), None for none. `folder` goes with a worker
        that dies."""
        self._watched[group] = _Watched(folder, deadline)
        self._tell(_begins(group, self._watched[group]))

    def renew(self, group: int, deadline: float | None) -> None:
        """It has another deadline."""
        watched = self._watched.get(group)
        if watched is not None and watched.deadline != deadline:
            watched.deadline = deadline
            self._tell(f"until {group} {_number(deadline)}")

    def forget(self, group: int) -> None:
        """It has ended."""
        if self._watched.pop(group, None) is not None:
            self._tell(f"forget {group}")

    def close(self) -> None:
        """End the guard, and with it what it still watches. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _tell(self, line: str) -> None:
        if self._process is None:
            if not self._watched:
                return
            self._start()  # which tells of all that is watched
            return
        try:
            _write(self._process, line)
        except OSError as error:
            log.warning("command_guard_lost", detail=str(error), advice="another one is started")
            self._process.kill()
            self.close()
            self._start()

    def _start(self) -> None:
        if self._is_missing:
            return
        try:
            self._process = _begin()
            for group, watched in self._watched.items():
                _write(self._process, _begins(group, watched))
        except OSError as error:
            self._is_missing = True
            self.close()
            log.warning(
                "command_guard_missing",
                detail=str(error),
                advice="commands of a worker that is killed, or frozen past its lease, go on",
            )


def _begin() -> subprocess.Popen[bytes]:
    if sys.platform == "win32":
        raise OSError("there is none on Windows, which has no process groups")
    process = subprocess.Popen(  # noqa: S603 (this very Python, and our own script)
        [sys.executable, "-I", "-S", str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        bufsize=0,
        cwd="/",
        env={name: value for name, value in os.environ.items() if name != "HOLDFAST_TOKEN"},
        start_new_session=True,  # what is typed at the worker's terminal is for the worker
    )
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)  # a guard that hangs must not hang the worker
    return process


def _write(process: subprocess.Popen[bytes], line: str) -> None:
    """Lines are far shorter than what a pipe takes in one piece or not at all."""
    assert process.stdin is not None
    os.write(process.stdin.fileno(), f"{line}\n".encode("ascii"))


def _begins(group: int, watched: _Watched) -> str:
    return f"watch {group} {_number(watched.deadline)} {os.fsencode(watched.folder).hex()}"


def _number(deadline: float | None) -> str:
    return "never" if deadline is None else repr(deadline)
