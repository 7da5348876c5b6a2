"""What people ask of a job: cancel, requeue, retry, from every state that it may be in."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, update

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db.tables import jobs
from holdfast_core.db.types import Now
from holdfast_core.errors import JobNotFound, JobStateConflict
from holdfast_core.ids import uuid7
from holdfast_core.schemas import (
    BulkRetryRequest,
    CancelRequest,
    Job,
    RequeueRequest,
    RetryRequest,
    parse_request,
)
from holdfast_core.services import Services
from holdfast_core.services import jobs as jobs_service
from holdfast_core.states import JobStatus
from holdfast_core.store import jobs as store
from support.core import (
    cancel,
    cancel_ack,
    claim,
    claimed,
    complete,
    enqueue,
    expire,
    fail,
    get,
    heartbeat,
    release,
    requeue,
    retry,
    row,
)
from support.stores import core

pytestmark = pytest.mark.anyio


async def ended_in(services: Services, status: str) -> Job:
    """A job that has ended so."""
    await enqueue(services, maxAttempts=1)
    job = await claimed(services)
    match status:
        case "succeeded":
            await complete(services, job, resultSummary="done")
        case "failed":
            await fail(services, job)
        case "dead_letter":
            await fail(services, job, retryable=True)
        case "cancelled":
            await cancel(services, job)
            await cancel_ack(services, job)
    assert (await get(services, job)).status == status
    return job


# --- cancel ---


async def test_a_queued_job_is_cancelled_at_once(database_url: str) -> None:
    async with core(database_url) as (services, database):
        job = await enqueue(services, runAt="2999-01-01T00:00:00Z")
        gone = await cancel(services, job, reason=" not needed ")
        assert (gone.status, gone.cancel_reason, gone.attempt) == (JobStatus.CANCELLED, "not needed", 1)
        assert gone.cancel_requested_at is not None
        assert gone.finished_at is not None
        assert gone.next_attempt_at is None
        assert (await claim(services)).job is None
        before = await row(database, job)
        assert await cancel(services, job, reason="again") == gone
        assert await row(database, job) == before


async def test_a_running_job_is_asked_and_the_first_reason_stays(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        asked = await cancel(services, job, reason="first")
        assert (asked.status, asked.cancel_reason, asked.claimed_by) == (JobStatus.RUNNING, "first", "w")
        assert asked.cancel_requested_at is not None
        again = await cancel(services, job, reason="second")
        assert (again.cancel_reason, again.cancel_requested_at) == ("first", asked.cancel_requested_at)


async def test_asking_a_running_job_again_to_be_cancelled_changes_nothing(database_url: str) -> None:
    """As `JobService.cancel` says of itself: repeating it changes nothing."""
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        asked = await cancel(services, job, reason="first")
        before = await row(database, job)
        assert await cancel(services, job, reason="second") == asked
        assert await row(database, job) == before


async def test_after_a_cancellation_was_asked_for_complete_succeeds_and_all_else_ends_in_cancelled(
    database_url: str,
) -> None:
    said: list[tuple[Any, dict[str, Any], JobStatus]] = [
        (complete, {"resultSummary": "done all the same"}, JobStatus.SUCCEEDED),
        (fail, {}, JobStatus.CANCELLED),
        (fail, {"retryable": True}, JobStatus.CANCELLED),
        (release, {}, JobStatus.CANCELLED),
        (cancel_ack, {"message": "stopped"}, JobStatus.CANCELLED),
    ]
    async with core(database_url) as (services, database):
        for verb, more, status in said:
            await enqueue(services)
            job = await claimed(services)
            await cancel(services, job, reason="enough")
            ended = await verb(services, job, **more)
            assert (ended.status, ended.attempt, ended.claimed_by) == (status, 1, "w")
            assert ended.finished_at is not None
            assert ended.next_attempt_at is None
            assert (ended.cancel_reason, ended.cancel_requested_at is None) == ("enough", False)
            before = await row(database, job)
            assert await verb(services, job, **more) == ended
            assert await row(database, job) == before


async def test_a_stale_job_is_cancelled_at_once(database_url: str) -> None:
    async with core(database_url) as (services, database):
        for asked_before in (False, True):
            await enqueue(services)
            job = await claimed(services)
            if asked_before:
                await cancel(services, job, reason="first")
            await expire(database, job)
            gone = await cancel(services, job, reason="second")
            assert gone.status is JobStatus.CANCELLED
            assert gone.cancel_reason == ("first" if asked_before else "second")
            assert (gone.claimed_by, gone.lease_expires_at, gone.phase) == ("w", None, None)


async def test_a_job_that_has_ended_otherwise_cannot_be_cancelled(database_url: str) -> None:
    async with core(database_url) as (services, database):
        for status in ("succeeded", "failed", "dead_letter"):
            job = await ended_in(services, status)
            before = await row(database, job)
            with pytest.raises(JobStateConflict, match=status):
                await cancel(services, job)
            assert await row(database, job) == before


async def test_a_cancellation_that_nobody_asked_for_cannot_be_acknowledged(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        before = await row(database, job)
        for token in (job.lease_token, None):
            with pytest.raises(JobStateConflict, match="Nobody asked"):
                await cancel_ack(services, job, leaseToken=token)
        assert await row(database, job) == before


# --- requeue ---


async def test_a_stale_job_goes_back_to_its_place_with_one_attempt_used(database_url: str) -> None:
    async with core(database_url) as (services, database):
        made = await enqueue(services)
        later = await enqueue(services)
        job = await claimed(services)
        await expire(database, job)
        back = await requeue(services, job)
        assert (back.status, back.attempt, back.claimed_by, back.lease_expires_at, back.next_attempt_at) == (
            JobStatus.QUEUED,
            2,
            None,
            None,
            None,
        )
        assert back.created_at == made.created_at
        assert [(await claimed(services)).id for _ in range(2)] == [made.id, later.id]


async def test_a_stale_job_without_attempts_left_ends_in_dead_letter(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services, maxAttempts=1)
        job = await claimed(services)
        await expire(database, job)
        dead = await requeue(services, job)
        assert (dead.status, dead.attempt) == (JobStatus.DEAD_LETTER, 1)
        assert dead.finished_at is not None


async def test_a_stale_job_that_was_asked_to_stop_ends_in_cancelled(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await cancel(services, job)
        await expire(database, job)
        assert (await requeue(services, job)).status is JobStatus.CANCELLED


async def test_only_a_stale_job_can_be_requeued(database_url: str) -> None:
    async with core(database_url) as (services, database):
        queued = await enqueue(services)

        async def refused(job: Job, words: str) -> None:
            before = await row(database, job)
            with pytest.raises(JobStateConflict, match=words):
                await requeue(services, job)
            assert await row(database, job) == before

        await refused(queued, "queued, not stale")
        live = await claimed(services, "holder")
        await refused(live, "Worker holder holds the job under a lease until 20")
        await expire(database, live)
        await heartbeat(services, live)
        await refused(live, "under a lease")
        await complete(services, live)
        for status in ("succeeded", "failed", "dead_letter", "cancelled"):
            await refused(await ended_in(services, status), f"{status}, not stale")


# --- retry ---


#: What a retry clears.
OF_THE_LAST_RUN = (
    "claimed_by",
    "checkpoint",
    "progress",
    "result_summary",
    "error_message",
    "cancel_requested_at",
    "cancel_reason",
    "next_attempt_at",
    "started_at",
    "finished_at",
    "lease_expires_at",
    "phase",
)


async def test_a_job_that_did_not_succeed_runs_again_as_if_new_in_its_old_place(database_url: str) -> None:
    async with core(database_url) as (services, _):
        ended = [await ended_in(services, status) for status in ("failed", "dead_letter", "cancelled")]
        await enqueue(services)
        for job in ended:
            again = await retry(services, job)
            assert (again.status, again.attempt, again.created_at) == (JobStatus.QUEUED, 1, job.created_at)
            assert not [name for name in OF_THE_LAST_RUN if getattr(again, name) is not None]
            assert again == await get(services, job)
        for job in ended:
            got = await claimed(services)
            assert (got.id, got.attempt, got.cancel_requested_at) == (job.id, 1, None)
            assert (await complete(services, got)).status is JobStatus.SUCCEEDED


async def test_a_job_that_runs_waits_or_succeeded_cannot_be_retried(database_url: str) -> None:
    async with core(database_url) as (services, database):
        done = await ended_in(services, "succeeded")
        queued = await enqueue(services)

        async def refused(job: Job, words: str) -> None:
            before = await row(database, job)
            with pytest.raises(JobStateConflict, match=words):
                await retry(services, job)
            assert await row(database, job) == before

        await refused(done, "succeeded")
        await refused(queued, "queued")
        await refused(await claimed(services), "running")


async def test_what_is_asked_of_a_job_that_does_not_exist_is_not_found(database_url: str) -> None:
    async with core(database_url) as (services, _):
        request, _ignored = parse_request(RequeueRequest, {"reason": "r"})
        for job_id in (
            str(uuid7()),
            str(UUID(int=0)),
            "1",
            "",
            "' OR 1=1",
            uuid7().hex,
            f"{{{uuid7()}}}",
            "é",
        ):
            for call in (
                lambda asked: services.jobs.cancel(
                    LOCAL_OPERATOR, asked, parse_request(CancelRequest, {})[0]
                ),
                lambda asked: services.jobs.requeue(LOCAL_OPERATOR, asked, request),
                lambda asked: services.jobs.retry(LOCAL_OPERATOR, asked, parse_request(RetryRequest, {})[0]),
                lambda asked: services.jobs.get(LOCAL_OPERATOR, asked),
            ):
                with pytest.raises(JobNotFound):
                    await call(job_id)


async def test_all_jobs_that_ended_one_way_are_queued_again_in_their_old_places(database_url: str) -> None:
    async with core(database_url) as (services, _):
        made = [await enqueue(services, type=f"t-{number % 2}") for number in range(6)]
        for _number in range(6):
            await fail(services, await claimed(services))
        request, _ = parse_request(BulkRetryRequest, {"status": "failed", "type": "t-1", "reason": "mended"})
        answer = await services.jobs.retry_many(LOCAL_OPERATOR, request)
        assert (answer.retried, answer.more) == (3, False)
        request, _ = parse_request(BulkRetryRequest, {"status": "dead_letter", "reason": "mended"})
        assert (await services.jobs.retry_many(LOCAL_OPERATOR, request)).retried == 0
        request, _ = parse_request(BulkRetryRequest, {"status": "failed", "reason": "mended"})
        assert (await services.jobs.retry_many(LOCAL_OPERATOR, request)).retried == 3
        again = [await claimed(services) for _ in range(6)]
        assert [(job.id, job.attempt) for job in again] == [(job.id, 1) for job in made]


async def test_a_bulk_retry_goes_on_where_the_one_before_stopped(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_service, "RETRY_BATCH", 2)
    monkeypatch.setattr(jobs_service, "RETRY_MOST", 4)
    async with core(database_url) as (services, _):
        for _number in range(5):
            await enqueue(services)
            await fail(services, await claimed(services))
        request, _ = parse_request(BulkRetryRequest, {"status": "failed", "reason": "mended"})
        answers = [await services.jobs.retry_many(LOCAL_OPERATOR, request) for _ in range(2)]
        assert [(answer.retried, answer.more) for answer in answers] == [(4, True), (1, False)]


async def test_a_bulk_retry_leaves_what_has_failed_since_it_began(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a job that fails again at once would be taken again and again."""
    async with core(database_url) as (services, _):
        await enqueue(services)
        await fail(services, await claimed(services))
        retry_many = store.retry_many

        def failing_again(connection: Connection, **said: Any) -> int:
            count = retry_many(connection, **said)
            connection.execute(
                update(jobs).values(status="failed", claimed_by="w", finished_at=Now(5), ready=True)
            )
            return count

        monkeypatch.setattr(store, "retry_many", failing_again)
        monkeypatch.setattr(jobs_service, "RETRY_BATCH", 1)
        request, _ = parse_request(BulkRetryRequest, {"status": "failed", "reason": "mended"})
        answer = await services.jobs.retry_many(LOCAL_OPERATOR, request)
        assert (answer.retried, answer.more) == (1, False)
