"""A worker that only has a control port: what it controls is in memory, with a hold that is the real one."""

import http.client
import json
import os
import socket
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from anyio import move_on_after
from anyio.from_thread import BlockingPortal, start_blocking_portal

from holdfast_core.schemas import LogLevel, System
from holdfast_core.states import JobPhase, PauseMode
from holdfast_worker.runtime.control import Control, running_control
from holdfast_worker.runtime.hold import Hold
from holdfast_worker.runtime.status import (
    CheckpointAnswer,
    CheckpointKind,
    JobAtWork,
    WorkerStatus,
    WorkerVariant,
)

__all__ = ["JOB_TOKEN", "FakeWorker", "Reply", "Steered", "ask", "raw", "running_fake", "steered"]

JOB_TOKEN = "the-job's-own-token"
STARTED = datetime(2026, 2, 20, 1, 55, tzinfo=UTC)


def paused(mode: PauseMode | None, version: int, reason: str = "Rolling API migration") -> System:
    """The system's pause, or none."""
    return System(
        workers_paused=mode is not None,
        mode=mode,
        reason=None if mode is None else reason,
        version=version,
        requested_by="local operator",
        requested_at=None if mode is None else STARTED,
        updated_at=STARTED,
    )


class FakeWorker:
    """`Controlled`, without a server and without slots."""

    def __init__(self, worker_id: str = "w") -> None:
        self.worker_id = worker_id
        self.hold = Hold()
        self.connected = True
        self.jobs: list[JobAtWork] = []
        self.said: list[tuple[LogLevel, str]] = []
        self.visits: list[tuple[str | None, CheckpointKind | None, float]] = []
        self.left = 0
        self.breaks = False

    def status(self) -> WorkerStatus:
        if self.breaks:
            raise RuntimeError("the secret of the trace")
        return WorkerStatus(
            worker_id=self.worker_id,
            pid=os.getpid(),
            version="0",
            url="http://127.0.0.1:8790",
            transport="http",
            connected=self.connected,
            variant=self._variant(),
            locally_paused=self.hold.locally_paused,
            stopping=self.hold.stopping,
            system=self.hold.system,
            slots=2,
            jobs=self.jobs,
            started_at=STARTED,
        )

    def pause(self) -> None:
        self.hold.pause_locally()

    def resume(self) -> None:
        self.hold.resume_locally()

    def stop(self) -> None:
        self.hold.stop()

    async def checkpoint(
        self, job_token: str, label: str | None, kind: CheckpointKind | None, wait_seconds: float
    ) -> CheckpointAnswer:
        if job_token != JOB_TOKEN:
            raise KeyError("no such job")
        self.visits.append((label, kind, wait_seconds))
        try:
            with move_on_after(wait_seconds):
                while self.hold.quiesced:
                    await self.hold.changed(self.hold.revision)
        finally:
            self.left += 1
        system = self.hold.system
        return CheckpointAnswer(
            hold=self.hold.quiesced,
            mode="quiesce" if self.hold.quiesced else None,
            reason=None if system is None else system.reason,
            version=self.hold.version,
        )

    async def log(self, job_token: str, level: LogLevel, message: str) -> None:
        if job_token != JOB_TOKEN:
            raise KeyError("no such job")
        self.said.append((level, message))

    # What the tests do to it

    def learn(self, mode: PauseMode | None, version: int, reason: str = "Rolling API migration") -> None:
        """The server speaks."""
        self.hold.learn(paused(mode, version, reason), asked_at=time.monotonic())

    def take(
        self, number: int = 1, phase: JobPhase = JobPhase.RUNNING, checkpoint: str | None = None
    ) -> None:
        """A job begins."""
        self.jobs = [
            *self.jobs,
            JobAtWork(
                id=UUID(int=number),
                type="report",
                attempt=1,
                phase=phase,
                checkpoint=checkpoint,
                started_at=STARTED,
            ),
        ]

    def _variant(self) -> WorkerVariant:
        if not self.connected:
            return "disconnected"
        if self.hold.locally_paused or self.hold.system_paused:
            return "paused"
        return "busy" if self.jobs else "idle"


@asynccontextmanager
async def running_fake(worker: FakeWorker) -> AsyncGenerator[Control]:
    """Its control port, in the loop of the test."""
    worker.hold.settle()
    async with running_control(worker, worker.worker_id) as control:
        yield control


@dataclass
class Steered:
    """A fake worker with its control port, in a thread of its own."""

    worker: FakeWorker
    control: Control
    portal: BlockingPortal

    def learn(self, mode: PauseMode | None, version: int, reason: str = "Rolling API migration") -> None:
        self.portal.call(self.worker.learn, mode, version, reason)

    def take(
        self, number: int = 1, phase: JobPhase = JobPhase.RUNNING, checkpoint: str | None = None
    ) -> None:
        self.portal.call(self.worker.take, number, phase, checkpoint)


@contextmanager
def steered(worker_id: str = "w") -> Generator[Steered]:
    """A fake worker beside a test that blocks: one with a browser, or with processes."""
    worker = FakeWorker(worker_id)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running_fake(worker)) as control,
    ):
        yield Steered(worker, control, portal)


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of the problem that it is."""
        assert self.headers["content-type"] == "application/problem+json"
        problem = self.json
        assert problem["type"] == f"/problems/{problem['code']}"
        assert problem["status"] == self.status
        code: str = problem["code"]
        return code


def ask(
    url: str,
    method: str,
    path: str,
    token: str | None = None,
    body: object = None,
    **headers: str,
) -> Reply:
    """One request, from another thread than the port's. `headers` come on top; their _ are -."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    sent = {} if token is None else {"Authorization": f"Bearer {token}"}
    content: bytes | None = None
    if body is not None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent["Content-Type"] = "application/json"
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, content, sent)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
    finally:
        connection.close()


def raw(url: str, sent: bytes) -> bytes:
    """Bytes as they are; everything that comes back until the end."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(sent)
        came = b""
        while data := connection.recv(65_536):
            came += data
        return came
