"""A command and its process group: begun together, ended together.

The command leads a group (and a session) of its own. Its exit is awaited without reaping it: as long as it has not been
reaped, the group's id is nobody else's, so that a signal for the group cannot hit a stranger.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from anyio import CancelScope, CapacityLimiter, Event, move_on_after, sleep, to_thread, wait_readable

__all__ = ["Child"]

log = structlog.get_logger(__name__)

#: How long killed processes may take to be gone. Only one that waits for a broken disk, say, takes longer.
GONE_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.01


class Child:
    """A command that runs. `stdout` and `stderr`: the reading ends of its pipes, which are the caller's to close."""

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        stdin: Path,
        environment: Mapping[str, str],
        cwd: str | None,
    ) -> None:
        """Start it. Raises OSError where that cannot be."""
        self.stdout, its_stdout = _pipe()
        self.stderr, its_stderr = _pipe()
        try:
            with stdin.open("rb") as its_stdin:
                self._process = subprocess.Popen(  # noqa: S603 (what the operator wants run)
                    command,
                    shell=isinstance(command, str),
                    stdin=its_stdin,
                    stdout=its_stdout,
                    stderr=its_stderr,
                    env=dict(environment),
                    cwd=cwd,
                    start_new_session=True,
                    creationflags=_CREATION_FLAGS,
                )
        except BaseException:
            os.close(self.stdout)
            os.close(self.stderr)
            raise
        finally:
            os.close(its_stdout)
            os.close(its_stderr)
        #: The id of the group, which is that of the command, too.
        self.group = self._process.pid
        #: Set once the command has ended. What it has started may live on.
        self.ended = Event()
        #: After `bury`; below 0: the signal that has ended it.
        self.exit_code = 0
        self._watching = CancelScope(shield=True)

    async def watch(self) -> None:
        """Set `ended` when that is so. Goes on when it is cancelled: `bury` ends it."""
        with self._watching:
            await _exit_of(self._process)
        self.ended.set()

    def ask_to_end(self) -> None:
        """SIGTERM for the whole group."""
        _signal_group(self._process, _ASK)

    def kill(self) -> None:
        """SIGKILL for the whole group."""
        _signal_group(self._process, _KILL)

    async def bury(self) -> None:
        """After `kill`: wait until nothing of it is there any more, and take note of the exit code."""
        with move_on_after(GONE_SECONDS):
            await self.ended.wait()
        self._watching.cancel()
        code = self._process.poll()
        self.exit_code = -signal.SIGTERM if code is None else code
        with move_on_after(GONE_SECONDS):
            while _group_lives(self.group):  # noqa: ASYNC110 (they are not our children: nobody tells)
                await sleep(LOOK_SECONDS)
            return
        log.error("command_lingers", group=self.group, detail="it was killed, but is not gone yet")


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    if sys.platform != "win32":
        os.set_blocking(reading, False)
    return reading, writing


if sys.platform == "win32":
    _CREATION_FLAGS: Final = subprocess.CREATE_NEW_PROCESS_GROUP
    _ASK: Final = signal.CTRL_BREAK_EVENT
    _KILL: Final = signal.SIGTERM

    def _signal_group(process: "subprocess.Popen[bytes]", sign: signal.Signals) -> None:
        """Ctrl-Break reaches the group. What kills is for the tree: more needs a job object."""
        with suppress(OSError):
            if sign is _ASK:
                process.send_signal(sign)
            else:
                subprocess.run(  # noqa: S603 (a number is all that varies)
                    ["taskkill", "/F", "/T", "/PID", str(process.pid)],  # noqa: S607 (Windows' own)
                    capture_output=True,
                    check=False,
                )
                process.kill()

    def _group_lives(group: int) -> bool:
        return False

    async def _exit_of(process: "subprocess.Popen[bytes]") -> None:
        await to_thread.run_sync(process.wait, abandon_on_cancel=True, limiter=CapacityLimiter(1))

else:
    _CREATION_FLAGS: Final = 0
    _ASK: Final = signal.SIGTERM
    _KILL: Final = signal.SIGKILL

    def _signal_group(process: "subprocess.Popen[bytes]", sign: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # gone; macOS refuses where only a zombie is left
            os.killpg(process.pid, sign)
            os.killpg(process.pid, signal.SIGCONT)  # what is stopped would not hear it

    def _group_lives(group: int) -> bool:
        try:
            os.killpg(group, 0)
            lives = sys.platform != "linux" or _has_more_than_zombies(group)
        except (ProcessLookupError, PermissionError):
            lives = False
        # Where this worker is the host's first process (in a container), orphans of its commands are its to reap.
        with suppress(ChildProcessError):
            while os.waitpid(-group, os.WNOHANG) != (0, 0):
                pass
        return lives

    def _has_more_than_zombies(group: int) -> bool:
        """Orphans that nobody has reaped yet are dead, but there; the host's first process may be slow at it."""
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                # pid (name) state parent group …, where the name may hold anything
                state, _, its_group = entry.read_bytes().rpartition(b")")[2].split()[:3]
                if int(its_group) == group and state not in b"ZX":
                    return True
        return False

    async def _exit_of(process: "subprocess.Popen[bytes]") -> None:
        """Until the process has ended; it is not reaped."""
        if sys.platform == "linux":
            try:
                file = os.pidfd_open(process.pid)
            except OSError:
                pass  # an old kernel, or a sandbox that does not have it
            else:
                try:
                    await wait_readable(file)
                finally:
                    os.close(file)
                return
        await to_thread.run_sync(_wait, process, abandon_on_cancel=True, limiter=CapacityLimiter(1))

    def _wait(process: "subprocess.Popen[bytes]") -> None:
        if hasattr(os, "waitid"):
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        else:
            process.wait()
