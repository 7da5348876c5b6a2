"""A job as a command's handler sees it, without a worker: the log is a list, the lease is a real one."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import psutil
from anyio import CancelScope, create_task_group

from holdfast_worker.runtime.execution import CommandHandler
from holdfast_worker.runtime.lease import Lease

__all__ = ["FakeJob", "Run", "alive", "running", "until"]

PATIENCE_SECONDS = 60.0


@dataclass
class FakeJob:
    """What a handler needs of a Job."""

    payload: dict[str, Any] = field(default_factory=dict)
    lease: Lease = field(default_factory=lambda: Lease(60, asked_at=time.monotonic()))
    parked: bool = False
    #: (level, text, payload), in order.
    said: list[tuple[str, str, Mapping[str, Any] | None]] = field(default_factory=list)

    async def log(
        self, message: str, *, level: str = "info", payload: Mapping[str, Any] | None = None
    ) -> None:
        self.said.append((level, message, payload))

    def environment(self) -> dict[str, str]:
        return {"HOLDFAST_JOB_ID": "the-job", "HOLDFAST_JOB_TOKEN": "job-token"}

    def text(self, stream: str = "stdout") -> str:
        """What one stream has said, its events joined as lines."""
        payload = None if stream == "stdout" else {"stream": "stderr"}
        return "\n".join(text for level, text, found in self.said if level == "info" and found == payload)


@dataclass
class Run:
    """A handler at work."""

    scope: CancelScope
    done: anyio.Event = field(default_factory=anyio.Event)
    result: str | None = None
    error: BaseException | None = None


@asynccontextmanager
async def running(handler: CommandHandler, job: FakeJob) -> AsyncGenerator[Run]:
    """The handler in a task of its own while the block runs. `scope.cancel()` stops it, as a worker does."""
    run = Run(CancelScope())

    async def work() -> None:
        with run.scope:
            try:
                run.result = await handler(job)  # type: ignore[arg-type]
            except Exception as error:
                run.error = error
        run.done.set()

    async with create_task_group() as tasks:
        tasks.start_soon(work)
        yield run
        run.scope.cancel()


async def until(condition: Callable[[], Any], what: str = "it") -> Any:
    """Ask again until the condition holds; bounded."""
    with anyio.move_on_after(PATIENCE_SECONDS):
        while not (found := condition()):
            await anyio.sleep(0.01)
        return found
    raise AssertionError(f"{what} has not come within {PATIENCE_SECONDS:g} s")


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
