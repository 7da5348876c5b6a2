"""While paused the server by itself changes no job; what holders and people ask for works as ever."""

from typing import Any
from uuid import UUID

import anyio
import pytest
from sqlalchemy import Connection, select, update

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Database
from holdfast_core.db.tables import jobs
from holdfast_core.db.types import Now
from holdfast_core.schemas import (
    CancelRequest,
    ClaimRequest,
    CompleteRequest,
    EnqueueRequest,
    FailRequest,
    HeartbeatRequest,
    Job,
    ReleaseRequest,
    RequeueRequest,
    Snapshot,
    WorkerPauseRequest,
    parse_request,
)
from holdfast_core.services import Services
from holdfast_core.states import JobStatus
from support.stores import core

pytestmark = pytest.mark.anyio


async def toggle(services: Services, action: str) -> Snapshot:
    body = {"action": action, "mode": "drain", "reason": "a test"}
    return await services.pause.control(LOCAL_OPERATOR, parse_request(WorkerPauseRequest, body)[0])


async def enqueue(services: Services, **body: Any) -> Job:
    made = await services.jobs.enqueue(
        LOCAL_OPERATOR, parse_request(EnqueueRequest, {"type": "t", **body})[0]
    )
    return made.job


async def claim(services: Services, worker: str = "w") -> Job | None:
    request, _ = parse_request(ClaimRequest, {"workerId": worker, "leaseSeconds": 60})
    return (await services.claims.claim(LOCAL_OPERATOR, request)).job


async def claimed(services: Services, worker: str = "w") -> Job:
    job = await claim(services, worker)
    assert job is not None
    return job


async def expire(database: Database, *ids: UUID) -> None:
    """Let these leases have run out a minute ago."""
    await database.write(
        lambda c: c.execute(update(jobs).where(jobs.c.id.in_(ids)).values(lease_expires_at=Now(-60)))
    )


def everything(connection: Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(select(jobs).order_by(jobs.c.id))]


@pytest.mark.requirement("FR-005")
@pytest.mark.requirement("US2-1")
async def test_no_row_changes_while_paused_however_many_leases_expire_and_the_order_is_kept(
    database_url: str,
) -> None:
    async with core(database_url, lease_grace_seconds=0, lease_retry_delay_seconds=0) as (services, database):
        queued = [await enqueue(services, priority=priority) for priority in (0, 5, 0, 5, -3)]
        held = [await claimed(services, f"w-{n}") for n in range(2)]
        last = await enqueue(services, maxAttempts=1, priority=9)
        doomed = await claimed(services, "w-doomed")
        assert doomed.id == last.id
        await toggle(services, "pause")
        await expire(database, *(job.id for job in held), doomed.id)
        before = await database.read(everything)
        snapshot = await services.pause.status(LOCAL_OPERATOR)
        assert (snapshot.metrics.running, snapshot.metrics.stale_running, snapshot.metrics.queued) == (
            0,
            3,
            3,
        )
        assert not snapshot.metrics.is_drained
        for _ in range(3):
            assert await claim(services) is None
            assert await services.sweeper.sweep() == 0
            assert await services.watch.inspect() == 0
        assert await database.read(everything) == before
        await toggle(services, "resume")
        # Nothing was dead-lettered by the pause: a holder that comes back first still has its job.
        beat = parse_request(HeartbeatRequest, {"workerId": "w-doomed", "leaseSeconds": 60})[0]
        assert (
            await services.leases.heartbeat(LOCAL_OPERATOR, str(doomed.id), beat)
        ).status is JobStatus.RUNNING
        with anyio.fail_after(10):
            while await services.sweeper.sweep() == 0:
                await anyio.sleep(0.02)
        order = [job.id for job in sorted(queued, key=lambda job: (-job.priority, job.created_at, job.id))]
        assert [(await claimed(services)).id for _ in order] == order


@pytest.mark.requirement("QS-04")
@pytest.mark.requirement("EDGE-03")
async def test_a_lease_that_ran_out_while_paused_shows_as_stale_and_its_holders_heartbeat_revives_it(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await toggle(services, "pause")
        await expire(database, job.id)
        assert (await services.pause.status(LOCAL_OPERATOR)).metrics.stale_running == 1
        body = {"workerId": "w", "leaseSeconds": 60, "leaseToken": job.lease_token}
        answer = await services.leases.heartbeat(
            LOCAL_OPERATOR, str(job.id), parse_request(HeartbeatRequest, body)[0]
        )
        assert answer.system.workers_paused
        metrics = (await services.pause.status(LOCAL_OPERATOR)).metrics
        assert (metrics.running, metrics.stale_running) == (1, 0)


async def test_a_drain_can_end_whatever_holders_and_people_do_with_the_running_jobs(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        for _ in range(6):
            await enqueue(services)
        done, failed, retried, released, stale, cancelled = [
            await claimed(services, f"w-{n}") for n in range(6)
        ]
        await toggle(services, "pause")
        waiting = await enqueue(services)
        outcomes, people = services.outcomes, services.jobs

        def said(model: Any, job: Job, **body: Any) -> Any:
            return parse_request(model, {"workerId": job.claimed_by, "leaseToken": job.lease_token, **body})[
                0
            ]

        await outcomes.complete(LOCAL_OPERATOR, str(done.id), said(CompleteRequest, done))
        await outcomes.fail(LOCAL_OPERATOR, str(failed.id), said(FailRequest, failed, errorMessage="no"))
        put_back = await outcomes.fail(
            LOCAL_OPERATOR, str(retried.id), said(FailRequest, retried, errorMessage="later", retryable=True)
        )
        given_back = await outcomes.release(LOCAL_OPERATOR, str(released.id), said(ReleaseRequest, released))
        await expire(database, stale.id, cancelled.id)
        requeued = await people.requeue(
            LOCAL_OPERATOR, str(stale.id), parse_request(RequeueRequest, {"reason": "its worker is dead"})[0]
        )
        await people.cancel(LOCAL_OPERATOR, str(cancelled.id), parse_request(CancelRequest, {})[0])
        snapshot = await services.pause.status(LOCAL_OPERATOR)
        assert snapshot.metrics.safe_to_upgrade
        assert (put_back.status, put_back.attempt) == (JobStatus.QUEUED, 2)
        assert (given_back.status, given_back.attempt) == (JobStatus.QUEUED, 1)
        assert (requeued.status, requeued.attempt) == (JobStatus.QUEUED, 2)
        assert given_back.created_at == released.created_at
        assert await claim(services) is None
        await toggle(services, "resume")
        # Back in their old places, before the job that came during the pause.
        assert [(await claimed(services)).id for _ in range(3)] == [released.id, stale.id, waiting.id]


async def test_a_repeated_complete_answers_the_same_and_writes_nothing(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        body = {"workerId": "w", "leaseToken": job.lease_token, "resultSummary": "42"}
        request, _ = parse_request(CompleteRequest, body)
        first = await services.outcomes.complete(LOCAL_OPERATOR, str(job.id), request)
        row = await database.read(everything)
        again = await services.outcomes.complete(LOCAL_OPERATOR, str(job.id), request)
        assert again == first
        assert first.result_summary == "42"
        assert await database.read(everything) == row
