"""What the core's tests say over and over: verbs with JSON bodies, and looks and acts behind the services' back."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import anyio
import asyncpg
from sqlalchemy import Connection, literal_column, select, text, update

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.clock import SystemClock
from holdfast_core.db import Database
from holdfast_core.db.postgres import plain_url
from holdfast_core.db.tables import jobs, pause_state
from holdfast_core.db.types import Now
from holdfast_core.schemas import (
    CancelAckRequest,
    CancelRequest,
    ClaimAnswer,
    ClaimRequest,
    CompleteRequest,
    ControlEvent,
    ControlSnapshot,
    EnqueueRequest,
    FailRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    HistoryQuery,
    Job,
    ReleaseRequest,
    RequeueRequest,
    RetryRequest,
    WorkerPauseRequest,
    parse_request,
)
from holdfast_core.services import Services
from holdfast_core.store.lanes import add_lanes, lane_key

T = TypeVar("T")


class MovableClock(SystemClock):
    """The host's clocks, which a test can put forward (or back). On SQLite the database goes by them, too."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def lane_of(connection: Connection, job_type: str) -> int:
    """The lane of jobs of this type that require nothing, for tests that insert jobs themselves."""
    key = lane_key(job_type, [])
    return add_lanes(connection, {key: (job_type, [])})[key]


async def enqueue(services: Services, **body: Any) -> Job:
    request, _ = parse_request(EnqueueRequest, {"type": "t", **body})
    return (await services.jobs.enqueue(LOCAL_OPERATOR, request)).job


async def claim(services: Services, worker: str = "w", **body: Any) -> ClaimAnswer:
    request, _ = parse_request(ClaimRequest, {"workerId": worker, "leaseSeconds": 60, **body})
    return await services.claims.claim(LOCAL_OPERATOR, request)


async def claimed(services: Services, worker: str = "w", **body: Any) -> Job:
    """The job of a claim that must find one."""
    job = (await claim(services, worker, **body)).job
    assert job is not None
    return job


def _holder(job: Job, body: dict[str, Any]) -> dict[str, Any]:
    said = {"workerId": job.claimed_by, "leaseToken": job.lease_token, **body}
    return {name: value for name, value in said.items() if value is not None}


async def heartbeat(services: Services, job: Job, **body: Any) -> HeartbeatAnswer:
    """As the claim `job` came from; `leaseToken=None` leaves the token out, as in all verbs of a holder."""
    request, _ = parse_request(HeartbeatRequest, _holder(job, {"leaseSeconds": 60, **body}))
    return await services.leases.heartbeat(LOCAL_OPERATOR, str(job.id), request)


async def complete(services: Services, job: Job, **body: Any) -> Job:
    request, _ = parse_request(CompleteRequest, _holder(job, body))
    return await services.outcomes.complete(LOCAL_OPERATOR, str(job.id), request)


async def fail(services: Services, job: Job, **body: Any) -> Job:
    request, _ = parse_request(FailRequest, _holder(job, {"errorMessage": "it broke", **body}))
    return await services.outcomes.fail(LOCAL_OPERATOR, str(job.id), request)


async def release(services: Services, job: Job, **body: Any) -> Job:
    request, _ = parse_request(ReleaseRequest, _holder(job, body))
    return await services.outcomes.release(LOCAL_OPERATOR, str(job.id), request)


async def cancel_ack(services: Services, job: Job, **body: Any) -> Job:
    request, _ = parse_request(CancelAckRequest, _holder(job, body))
    return await services.outcomes.cancel_ack(LOCAL_OPERATOR, str(job.id), request)


async def cancel(services: Services, job: Job, **body: Any) -> Job:
    return await services.jobs.cancel(LOCAL_OPERATOR, str(job.id), parse_request(CancelRequest, body)[0])


async def requeue(services: Services, job: Job) -> Job:
    request, _ = parse_request(RequeueRequest, {"reason": "its worker is dead"})
    return await services.jobs.requeue(LOCAL_OPERATOR, str(job.id), request)


async def retry(services: Services, job: Job) -> Job:
    return await services.jobs.retry(LOCAL_OPERATOR, str(job.id), parse_request(RetryRequest, {})[0])


async def get(services: Services, job: Job) -> Job:
    return await services.jobs.get(LOCAL_OPERATOR, str(job.id))


async def pause(
    services: Services, mode: str = "drain", *, key: str | None = None, **body: Any
) -> ControlSnapshot:
    said = {"action": "pause", "mode": mode, "reason": "a test", **body}
    return await services.pause.control(LOCAL_OPERATOR, parse_request(WorkerPauseRequest, said)[0], key=key)


async def resume(services: Services, *, key: str | None = None, **body: Any) -> ControlSnapshot:
    said = {"action": "resume", "reason": "a test", **body}
    return await services.pause.control(LOCAL_OPERATOR, parse_request(WorkerPauseRequest, said)[0], key=key)


async def audit(services: Services) -> list[ControlEvent]:
    """The whole audit log of a test, oldest first."""
    return (await services.pause.history(LOCAL_OPERATOR, HistoryQuery(limit=200))).items[::-1]


async def expire(database: Database, *found: Job) -> None:
    """Let these leases have run out a minute ago, by whichever clock the database goes."""
    ids: list[UUID] = [job.id for job in found]
    await database.write(
        lambda c: c.execute(update(jobs).where(jobs.c.id.in_(ids)).values(lease_expires_at=Now(-60)))
    )


async def row(database: Database, job: Job) -> tuple[Any, ...]:
    """All of the job's row; on PostgreSQL also which transaction wrote it, so that nothing can be written unseen."""
    by = [literal_column("xmin::text")] if database.dialect == "postgresql" else []

    def reading(connection: Connection) -> tuple[Any, ...]:
        return tuple(connection.execute(select(jobs, *by).where(jobs.c.id == job.id)).one())

    return await database.read(reading)


async def column(database: Database, job: Job, name: str) -> Any:
    """One column of the job's row, also one that no client sees."""
    return await database.read(
        lambda c: c.execute(select(jobs.c[name]).where(jobs.c.id == job.id)).scalar_one()
    )


async def sql(database: Database, statement: str, **values: Any) -> None:
    """Write behind the services' back."""
    await database.write(lambda c: c.execute(text(statement), values))


async def move_limit(database: Database, seconds: float) -> None:
    """Let the pause's time limit be `seconds` from now, behind the back of the trigger that guards the row."""

    def moving(connection: Connection) -> None:
        name = "system_worker_pause_state_version"
        change = update(pause_state).values(resume_at=Now(seconds))
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"ALTER TABLE system_worker_pause_state DISABLE TRIGGER {name}"))
            connection.execute(change)
            connection.execute(text(f"ALTER TABLE system_worker_pause_state ENABLE TRIGGER {name}"))
            return
        find = text("SELECT sql FROM sqlite_master WHERE name = :name")
        trigger = connection.execute(find, {"name": name}).scalar_one()
        connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(change)
        connection.execute(text(trigger))

    await database.write(moving)


async def until(condition: Callable[[], Awaitable[T]], seconds: float = 10) -> T:
    """What the condition answers, as soon as that is true. Raises TimeoutError."""
    with anyio.fail_after(seconds):
        while not (found := await condition()):
            await anyio.sleep(0.005)
    return found


@asynccontextmanager
async def session(url: str, *, beside: bool = False) -> "AsyncGenerator[asyncpg.Connection[asyncpg.Record]]":
    """A foreign session on the PostgreSQL database, or `beside` it: on the server's own. Ends with the block."""
    url = plain_url(url)
    connection = await asyncpg.connect(urlsplit(url)._replace(path="/postgres").geturl() if beside else url)
    try:
        yield connection
    finally:
        connection.terminate()  # whatever it holds or waits for
