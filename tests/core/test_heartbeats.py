"""Heartbeats: the lease moves, also one that has run out while nobody took the job; and what they report."""

from datetime import timedelta

import pytest

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.errors import JobNotFound, JobNotOwned, JobStateConflict, LeaseLost
from holdfast_core.schemas import HeartbeatRequest, parse_request
from holdfast_core.states import JobPhase, JobStatus
from support.core import (
    cancel,
    claimed,
    complete,
    enqueue,
    expire,
    fail,
    get,
    heartbeat,
    pause,
    release,
    requeue,
    retry,
    row,
)
from support.stores import core

pytestmark = pytest.mark.anyio


async def test_a_heartbeat_sets_the_lease_from_now_on_longer_or_shorter(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services, leaseSeconds=60)
        for seconds in (86_400, 5, 1):
            answer = await heartbeat(services, job, leaseSeconds=seconds)
            assert answer.lease_expires_at is not None
            assert answer.lease_expires_at - answer.updated_at <= timedelta(seconds=seconds)
            assert answer.lease_expires_at - answer.updated_at > timedelta(seconds=seconds - 0.5)
            assert answer.lease_expires_at == (await get(services, job)).lease_expires_at
        assert (answer.attempt, answer.started_at) == (job.attempt, job.started_at)


@pytest.mark.requirement("FR-006")
async def test_a_heartbeats_answer_is_the_job_with_the_system_beside_its_own_fields(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services, payload={"a": 1})
        job = await claimed(services)
        answer = (await heartbeat(services, job)).model_dump(mode="json")
        system = answer.pop("system")
        assert answer == (await get(services, job)).model_dump(mode="json")
        assert (system["workersPaused"], system["version"]) == (False, 1)
        await pause(services, mode="quiesce")
        system = (await heartbeat(services, job)).system
        assert (system.workers_paused, system.mode, system.version) == (True, "quiesce", 2)


async def test_a_heartbeat_revives_a_lease_that_ran_out_while_nobody_took_the_job_paused_or_not(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        for paused in (False, True):
            if paused:
                await pause(services)
            for token in (job.lease_token, None):
                await expire(database, job)
                answer = await heartbeat(services, job, leaseToken=token)
                assert (answer.status, answer.attempt) == (JobStatus.RUNNING, 1)
                assert answer.lease_expires_at is not None
                assert answer.lease_expires_at > answer.updated_at
                assert answer.system.workers_paused == paused


async def test_an_outcome_is_accepted_from_a_lease_that_ran_out_while_nobody_took_the_job(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        for verb, status in ((complete, "succeeded"), (fail, "failed"), (release, "queued")):
            await enqueue(services)
            job = await claimed(services)
            await expire(database, job)
            assert (await verb(services, job)).status == status


async def test_phase_checkpoint_and_progress_are_kept_until_they_are_said_anew(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        progress = {"done": 3, "of": [4.5, None, "é"]}
        said = await heartbeat(services, job, phase="parking", checkpoint="stage 1", progress=progress)
        assert (said.phase, said.checkpoint, said.progress) == (JobPhase.PARKING, "stage 1", progress)
        kept = await heartbeat(services, job)
        assert (kept.phase, kept.checkpoint, kept.progress) == (JobPhase.PARKING, "stage 1", progress)
        anew = await heartbeat(services, job, phase="running", checkpoint="", progress={})
        assert (anew.phase, anew.checkpoint, anew.progress) == (JobPhase.RUNNING, "", {})
        assert (await get(services, job)).phase is JobPhase.RUNNING


async def test_a_compact_answer_leaves_only_the_payload_out(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services, payload={"big": "x" * 1000})
        job = await claimed(services)
        full = (await heartbeat(services, job)).model_dump()
        compact = (await heartbeat(services, job, compact=True)).model_dump()
        assert {name for name in full if full[name] != compact[name]} <= {
            "payload",
            "leaseExpiresAt",
            "updatedAt",
        }
        assert compact["payload"] is None
        assert (await get(services, job)).payload == {"big": "x" * 1000}


async def test_a_heartbeat_tells_of_a_cancellation_that_was_asked_for(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        assert (await heartbeat(services, job)).cancel_requested_at is None
        await cancel(services, job, reason="not needed any more")
        answer = await heartbeat(services, job)
        assert answer.cancel_requested_at is not None
        assert answer.cancel_reason == "not needed any more"
        assert answer.status is JobStatus.RUNNING


async def test_a_heartbeat_after_the_claim_is_over_finds_the_lease_lost_and_changes_nothing(
    database_url: str,
) -> None:
    async with core(database_url, lease_retry_delay_seconds=0) as (services, database):

        async def lost(end: object, error: type[Exception] = LeaseLost) -> None:
            await enqueue(services)
            job = await claimed(services)
            await end(job)
            before = await row(database, job)
            for token in (job.lease_token, None):
                with pytest.raises(error):
                    await heartbeat(services, job, leaseToken=token)
            assert await row(database, job) == before
            status = (await get(services, job)).status
            if status is JobStatus.RUNNING:
                await expire(database, job)
            if status in {JobStatus.QUEUED, JobStatus.RUNNING}:
                await cancel(services, job)  # out of the way of the next one

        async def requeued(job: object) -> None:
            await expire(database, job)
            await requeue(services, job)

        async def cancelled(job: object) -> None:
            await expire(database, job)
            await cancel(services, job)

        async def claimed_by_another(job: object) -> None:
            await requeued(job)
            await claimed(services, "another")

        await lost(requeued)
        await lost(cancelled)
        await lost(lambda job: complete(services, job))
        await lost(lambda job: fail(services, job))
        await lost(lambda job: fail(services, job, retryable=True))
        await lost(lambda job: release(services, job))
        await lost(claimed_by_another, JobNotOwned)


async def test_the_same_worker_with_the_token_of_an_earlier_claim_finds_the_lease_lost(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await expire(database, job)
        await requeue(services, job)
        again = await claimed(services)
        before = await row(database, again)
        for verb in (heartbeat, complete, fail, release):
            with pytest.raises(LeaseLost):
                await verb(services, job)
        assert await row(database, again) == before
        assert (await complete(services, again)).status is JobStatus.SUCCEEDED


async def test_a_job_that_nobody_has_or_that_was_never_claimed_is_told_apart(database_url: str) -> None:
    async with core(database_url) as (services, _):
        request, _ignored = parse_request(HeartbeatRequest, {"workerId": "w", "leaseSeconds": 1})
        for job_id in (
            "",
            "x",
            "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90",
            "0199f0c28a3e7c419f523b1d6a7e8c90",
            "\0",
        ):
            with pytest.raises(JobNotFound):
                await services.leases.heartbeat(LOCAL_OPERATOR, job_id, request)
        job = await enqueue(services)
        with pytest.raises(JobStateConflict, match="never claimed"):
            await services.leases.heartbeat(LOCAL_OPERATOR, str(job.id), request)
        ended = await claimed(services)
        await fail(services, ended)
        await retry(services, ended)
        with pytest.raises(LeaseLost):
            await heartbeat(services, ended)
        assert (
            await services.leases.heartbeat(
                LOCAL_OPERATOR, str((await claimed(services)).id).upper(), request
            )
        ).status is JobStatus.RUNNING
