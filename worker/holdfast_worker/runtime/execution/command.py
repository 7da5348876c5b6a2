"""Handlers that run a command for each job."""

import math
import os
import time
import weakref
from collections.abc import Sequence
from typing import Final

import structlog
from anyio import CancelScope, create_task_group, get_cancelled_exc_class, move_on_after, sleep, to_thread

from holdfast_core.errors import ConfigurationError
from holdfast_worker.runtime.execution.child import Child
from holdfast_worker.runtime.execution.ending import failure, not_started
from holdfast_worker.runtime.execution.files import JobFolder
from holdfast_worker.runtime.execution.guard import Guard
from holdfast_worker.runtime.execution.output import Output
from holdfast_worker.runtime.job import Job
from holdfast_worker.runtime.lease import Lease

__all__ = ["CommandHandler", "command_handler"]

log = structlog.get_logger(__name__)

KILL_AFTER_SECONDS: Final = 10.0
#: How long what a command has started may go on writing after the command's own end.
LINGER_SECONDS: Final = 2.0
#: How often it is looked whether a lease leaves the time that a command was given to end.
LOOK_SECONDS: Final = 0.25
#: How long a command that was killed with its lease waits for the worker's own word of it.
WORD_SECONDS: Final = 2.0

#: What of the worker's own environment is not for a command: the worker's credential, and what another job said, where
#: this worker is itself a part of one.
_NOT_INHERITED: Final = frozenset(
    f"HOLDFAST_{name}"
    for name in (
        "TOKEN",
        "CONTROL_URL",
        "JOB_ID",
        "JOB_TYPE",
        "JOB_ATTEMPT",
        "JOB_TOKEN",
        "WORKER_ID",
        "PAYLOAD",
        "PAYLOAD_FILE",
        "RESULT_FILE",
    )
)


class CommandHandler:
    """Runs one command for each job. `close` ends its guard; the end of the process does so, too."""

    def __init__(
        self, command: str | Sequence[str], kill_after_seconds: float, cwd: str | os.PathLike[str] | None
    ) -> None:
        self._command = command if isinstance(command, str) else tuple(command)
        if not (self._command.strip() if isinstance(self._command, str) else self._command):
            raise ConfigurationError("There is no command to run.")
        self._kill_after_seconds = kill_after_seconds
        self._cwd = None if cwd is None else os.fspath(cwd)
        self.guard = Guard()
        self.close = weakref.finalize(self, self.guard.close)

    async def __call__(self, job: Job) -> str | None:
        """Run it to its end; what it returns is the job's result. Raises JobFailed and CommandFailed.

        When it has returned, raised or been cancelled, nothing of the command's group is alive.
        """
        folder = await to_thread.run_sync(JobFolder, job.payload)
        try:
            output = await self._run(job, folder)
            return folder.result() or output.result or None
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(folder.remove)

    async def _run(self, job: Job, folder: JobFolder) -> Output:
        child = self._start(job, folder)
        output = Output(job.log, child.stdout, child.stderr)
        killed_with_lease = False

        def told(_: float) -> None:
            self.guard.renew(child.group, _guarded_until(job))

        self.guard.watch(child.group, folder.path, _guarded_until(job))
        job.lease.listeners.append(told)
        async with create_task_group() as tasks:
            tasks.start_soon(child.watch)
            tasks.start_soon(output.run)
            try:
                try:
                    await child.ended.wait()
                except get_cancelled_exc_class():
                    with CancelScope(shield=True):
                        await self._stop(child, output, job.lease)
                    raise
                killed_with_lease = time.monotonic() >= (_guarded_until(job) or math.inf)
                # From here on what the command has come to counts, whoever would stop it.
                with CancelScope(shield=True), move_on_after(LINGER_SECONDS):
                    await output.at_end.wait()
            finally:
                with CancelScope(shield=True):
                    child.kill()
                    job.lease.listeners.remove(told)
                    self.guard.forget(child.group)
                    await child.bury()
                    await output.finish()
                    log.info("command_ended", exit_code=child.exit_code)
        if child.exit_code < 0 and killed_with_lease:
            # By the guard, while this worker was frozen. That the lease has run out is for the worker to say.
            await sleep(WORD_SECONDS)
        if (failed := failure(child.exit_code, output.last_words)) is not None:
            raise failed
        return output

    def _start(self, job: Job, folder: JobFolder) -> Child:
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        environment = {**inherited, **job.environment(), **folder.environment()}
        try:
            return Child(self._command, stdin=folder.payload_path, environment=environment, cwd=self._cwd)
        except OSError as error:
            name = self._command if isinstance(self._command, str) else self._command[0]
            raise not_started(name, error) from error

    async def _stop(self, child: Child, output: Output, lease: Lease) -> None:
        """Ask all of the group to end, and return when it has or its time is over."""
        child.ask_to_end()
        latest = time.monotonic() + self._kill_after_seconds
        while (left := min(latest, _stopped_until(lease)) - time.monotonic()) > 0:
            with move_on_after(min(left, LOOK_SECONDS)):
                await child.ended.wait()
                await output.at_end.wait()
                return


def command_handler(
    command: str | Sequence[str],
    *,
    kill_after_seconds: float = KILL_AFTER_SECONDS,
    cwd: str | os.PathLike[str] | None = None,
) -> CommandHandler:
    """A handler that runs `command` for each job: a text in a shell, a sequence of words without one.

    The payload comes on its stdin and in the file that HOLDFAST_PAYLOAD_FILE names, up to 64 KiB of it in
    HOLDFAST_PAYLOAD, too. What it writes goes into the job's log. Exit code 0: the result is what is in the file that
    HOLDFAST_RESULT_FILE names, or else the last line of stdout. 65: failed for good. Any other code, or a signal: tried
    again while attempts are left.

    A command that is to stop gets SIGTERM with all of its process group, and `kill_after_seconds` later SIGKILL, sooner
    where its lease leaves less time. What it has left running in its group ends with it. `cwd`: the worker's own by
    default. Raises ConfigurationError where there is no command.
    """
    return CommandHandler(command, kill_after_seconds, cwd)


# A lease keeps a share of its time for stopping the handler. In the first half of that the command may end by itself,
# then it is killed; what is left at the last quarter, because the worker is frozen, is the guard's to kill.


def _stopped_until(lease: Lease) -> float:
    return lease.until - (lease.until - lease.deadline) / 2


def _guarded_until(job: Job) -> float | None:
    """None: a parked job does nothing, so it may stay for as long as its worker is there."""
    lease = job.lease
    return None if job.parked else lease.until - (lease.until - lease.deadline) / 4
