"""A retryable failure comes back after a back-off that doubles, with jitter, until the attempts are used up."""

import pytest

from holdfast_core.states import JobStatus
from support.core import claim, claimed, enqueue, fail, sql
from support.stores import core

pytestmark = pytest.mark.anyio

DELAY = 100
MAKE_DUE = "UPDATE agent_jobs SET next_attempt_at = NULL, ready = true WHERE status = 'queued'"


async def test_the_backoff_doubles_with_each_attempt_within_the_jitter_up_to_dead_letter(
    database_url: str,
) -> None:
    async with core(database_url, lease_retry_delay_seconds=DELAY) as (services, database):
        await enqueue(services, maxAttempts=4)
        for attempt in range(1, 4):
            job = await claimed(services)
            assert job.attempt == attempt
            back = await fail(services, job, errorMessage=f"try {attempt}", retryable=True)
            assert (back.status, back.attempt, back.error_message) == (
                JobStatus.QUEUED,
                attempt + 1,
                f"try {attempt}",
            )
            assert back.next_attempt_at is not None
            delay = (back.next_attempt_at - back.updated_at).total_seconds()
            assert 0.79 <= delay / (DELAY * 2 ** (attempt - 1)) <= 1.21
            assert (await claim(services)).job is None, "handed out before it was due"
            await sql(database, MAKE_DUE)
        last = await claimed(services)
        dead = await fail(services, last, errorMessage="the last try", retryable=True)
        assert (dead.status, dead.attempt, dead.error_message) == (JobStatus.DEAD_LETTER, 4, "the last try")
        assert (dead.next_attempt_at, dead.claimed_by) == (None, "w")
        assert dead.finished_at is not None
        assert (await claim(services)).job is None


async def test_jobs_that_fail_together_do_not_come_back_together(database_url: str) -> None:
    async with core(database_url, lease_retry_delay_seconds=DELAY) as (services, _):
        delays = []
        for _number in range(20):
            await enqueue(services)
            back = await fail(services, await claimed(services), retryable=True)
            assert back.next_attempt_at is not None
            delays.append((back.next_attempt_at - back.updated_at).total_seconds())
        assert all(DELAY * 0.79 <= delay <= DELAY * 1.21 for delay in delays)
        assert max(delays) - min(delays) > DELAY * 0.1
        assert len({round(delay, 1) for delay in delays}) > 10


async def test_the_backoff_ends_at_an_hour_however_many_attempts_there_were(database_url: str) -> None:
    async with core(database_url, lease_retry_delay_seconds=DELAY) as (services, database):
        await enqueue(services, maxAttempts=100)
        for attempt in (7, 40, 99):
            await sql(
                database, f"UPDATE agent_jobs SET attempt = {attempt}, next_attempt_at = NULL, ready = true"
            )
            back = await fail(services, await claimed(services), retryable=True)
            assert back.attempt == attempt + 1
            assert back.next_attempt_at is not None
            assert 3600 * 0.79 <= (back.next_attempt_at - back.updated_at).total_seconds() <= 3600 * 1.21


async def test_without_a_delay_a_retryable_failure_is_due_at_once(database_url: str) -> None:
    async with core(database_url, lease_retry_delay_seconds=0) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        await fail(services, job, retryable=True)
        assert (await claimed(services)).attempt == 2


async def test_a_plain_failure_is_final_however_many_attempts_are_left(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services, maxAttempts=100)
        job = await claimed(services)
        failed = await fail(services, job)
        assert (failed.status, failed.attempt) == (JobStatus.FAILED, 1)
        assert (await claim(services)).job is None
