"""Outcomes: what each verb of a holder leads to, said once, said again, and said too late."""

from typing import Any

import pytest

from holdfast_core.errors import JobNotFound, JobNotOwned, JobStateConflict, LeaseLost
from holdfast_core.schemas import Job
from holdfast_core.services import Services
from holdfast_core.states import JobStatus
from support.core import (
    cancel,
    cancel_ack,
    claimed,
    column,
    complete,
    enqueue,
    expire,
    fail,
    get,
    release,
    requeue,
    retry,
    row,
)
from support.stores import core

pytestmark = pytest.mark.anyio


async def fail_retryable(services: Any, job: Job, **body: Any) -> Job:
    return await fail(services, job, retryable=True, **body)


async def cancelled_ack(services: Any, job: Job, **body: Any) -> Job:
    if (await get(services, job)).status is JobStatus.RUNNING:
        await cancel(services, job)
    return await cancel_ack(services, job, **body)


async def out_of_the_way(services: Services, job: Job) -> None:
    """So that the next claim gets another job."""
    if (await get(services, job)).status is JobStatus.QUEUED:
        await cancel(services, job)


OUTCOMES: list[tuple[Any, dict[str, str], JobStatus]] = [
    (complete, {"resultSummary": "42"}, JobStatus.SUCCEEDED),
    (fail, {"errorMessage": "no"}, JobStatus.FAILED),
    (fail_retryable, {"errorMessage": "later"}, JobStatus.QUEUED),
    (release, {"reason": "shutting down"}, JobStatus.QUEUED),
    (cancelled_ack, {"message": "stopped"}, JobStatus.CANCELLED),
]


async def test_each_outcome_sets_what_it_says_and_ends_the_claim(database_url: str) -> None:
    async with core(database_url) as (services, _):
        for verb, said, status in OUTCOMES:
            made = await enqueue(services)
            job = await claimed(services, allowedTypes=["t"])
            assert job.id == made.id
            ended = await verb(services, job, **said)
            assert ended == await get(services, job)
            assert ended.status is status
            assert (ended.lease_expires_at, ended.phase) == (None, None)
            assert ended.created_at == made.created_at
            assert ended.updated_at > job.updated_at
            terminal = status is not JobStatus.QUEUED
            assert (ended.finished_at is not None) == terminal
            assert ended.claimed_by == ("w" if terminal else None)
            assert ended.attempt == (2 if verb is fail_retryable else 1)
            assert (ended.next_attempt_at is not None) == (verb is fail_retryable)
            assert ended.result_summary == said.get("resultSummary")
            assert ended.error_message == said.get("errorMessage", said.get("message"))
            await out_of_the_way(services, job)


async def test_an_outcome_repeated_by_its_claim_answers_the_same_and_writes_nothing(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        for verb, said, status in OUTCOMES:
            await enqueue(services)
            job = await claimed(services)
            first = await verb(services, job, **said)
            assert first.status is status
            before = await row(database, job)
            for token in [job.lease_token] if verb is release else [job.lease_token, None]:
                for again in (said, dict.fromkeys(said, "something else")):
                    assert await verb(services, job, leaseToken=token, **again) == first
            assert await row(database, job) == before
            await out_of_the_way(services, job)


async def test_another_outcome_after_the_first_is_refused_and_changes_nothing(database_url: str) -> None:
    same = {(fail, fail_retryable), (cancel_ack, cancelled_ack)}
    async with core(database_url) as (services, database):
        for verb, said, status in OUTCOMES:
            await enqueue(services)
            job = await claimed(services)
            await verb(services, job, **said)
            before = await row(database, job)
            for other in (complete, fail, release, cancel_ack):
                if other is not verb and (other, verb) not in same:
                    with pytest.raises(JobStateConflict, match=status):
                        await other(services, job)
            assert await row(database, job) == before
            await out_of_the_way(services, job)


async def test_a_late_outcome_does_no_harm_to_the_next_holder(database_url: str) -> None:
    async with core(database_url, lease_retry_delay_seconds=0) as (services, database):
        await enqueue(services)
        late = await claimed(services, "late")
        await expire(database, late)
        await requeue(services, late)
        waiting = await row(database, late)
        for verb in (complete, fail, fail_retryable, release, cancel_ack):
            with pytest.raises(LeaseLost):
                await verb(services, late)
        assert await row(database, late) == waiting
        holder = await claimed(services, "holder")
        held = await row(database, holder)
        for verb in (complete, fail, fail_retryable, release, cancel_ack):
            with pytest.raises(JobNotOwned, match="holder"):
                await verb(services, late)
        assert await row(database, holder) == held
        assert (await complete(services, holder)).attempt == 2
        with pytest.raises(JobNotOwned, match="holder"):
            await complete(services, late)


async def test_an_outcome_repeated_after_somebody_moved_the_job_on_is_answered_with_the_job_as_it_is(
    database_url: str,
) -> None:
    """Its first answer was lost on the way; meanwhile an operator retried or cancelled the job."""
    async with core(database_url) as (services, database):
        await enqueue(services)
        failed = await claimed(services)
        await fail(services, failed)
        await retry(services, failed)
        before = await row(database, failed)
        assert (await fail(services, failed)).status is JobStatus.QUEUED
        assert await row(database, failed) == before
        released = await claimed(services)
        await release(services, released)
        await cancel(services, released)
        before = await row(database, released)
        assert (await release(services, released)).status is JobStatus.CANCELLED
        assert await row(database, released) == before


async def test_a_release_is_back_in_its_place_at_once_with_no_attempt_used(database_url: str) -> None:
    async with core(database_url) as (services, _):
        made = await enqueue(services, maxAttempts=1)
        await enqueue(services)
        for _number in range(3):
            job = await claimed(services)
            assert (job.id, job.attempt) == (made.id, 1)
            back = await release(services, job, reason="not now")
            assert (back.status, back.attempt, back.next_attempt_at) == (JobStatus.QUEUED, 1, None)


async def test_complete_clears_the_error_of_an_earlier_attempt(database_url: str) -> None:
    async with core(database_url, lease_retry_delay_seconds=0) as (services, _):
        await enqueue(services)
        await fail_retryable(services, await claimed(services), errorMessage="the first try")
        job = await claimed(services)
        assert job.error_message == "the first try"
        assert (await complete(services, job)).error_message is None


async def test_texts_are_kept_as_they_are_but_for_nul(database_url: str) -> None:
    text = "line\n\ttab \x1b[31m \u202e 😀 %s {} ' \" \\ \u0000 end"
    async with core(database_url) as (services, _):
        await enqueue(services)
        ended = await fail(services, await claimed(services), errorMessage=text)
        assert ended.error_message == text.replace("\0", "␀")
        assert (await get(services, ended)).error_message == ended.error_message


async def test_an_outcome_of_a_job_that_does_not_exist_is_not_found(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = (await claimed(services)).model_copy(update={"id": "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"})
        for verb in (complete, fail, release, cancel_ack):
            with pytest.raises(JobNotFound):
                await verb(services, job)


async def test_the_claims_outcome_is_kept_for_repeats_only_until_the_next_claim(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await release(services, job)
        assert await column(database, job, "claim_outcome") == "release"
        again = await claimed(services)
        assert await column(database, again, "claim_outcome") is None
        with pytest.raises(LeaseLost):
            await release(services, job)
