"""A claim's token: said once, kept only as a hash, and what fences its holder's calls."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.errors import InvalidRequest, JobNotOwned, LeaseLost
from holdfast_core.schemas import JobQuery, parse_query
from holdfast_core.states import JobStatus
from support.core import (
    cancel,
    cancel_ack,
    claimed,
    column,
    complete,
    enqueue,
    fail,
    get,
    heartbeat,
    release,
    row,
)
from support.stores import core

pytestmark = pytest.mark.anyio

HOLDERS_VERBS: tuple[Any, ...] = (heartbeat, complete, fail, release, cancel_ack)


async def test_the_token_is_only_in_the_claims_answer(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        token = job.lease_token
        assert token is not None
        assert len(token) >= 32
        beat = await heartbeat(services, job)
        listed = await services.jobs.list(LOCAL_OPERATOR, parse_query(JobQuery, []))
        asked = await cancel(services, job)
        done = await complete(services, job)
        for answer in (beat, await get(services, job), *listed.items, asked, done):
            assert answer.lease_token is None
            assert token not in answer.model_dump_json()


async def test_the_database_keeps_only_a_hash_of_the_token(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        assert job.lease_token is not None
        assert (
            await column(database, job, "claim_token_hash")
            == hashlib.sha256(job.lease_token.encode()).hexdigest()
        )
        await heartbeat(services, job)
        assert job.lease_token not in str(await row(database, job))
        if database.dialect == "sqlite":
            folder = Path(database_url.removeprefix("sqlite:///")).parent
            files = [path for path in folder.iterdir() if path.is_file()]
            assert any(job.id.hex[:8].encode() in path.read_bytes() for path in files)
            assert not any(job.lease_token.encode() in path.read_bytes() for path in files)
        else:
            tables = await database.read(
                lambda c: (
                    c.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
                    .scalars()
                    .all()
                )
            )
            assert "agent_jobs" in tables
            for table in tables:
                found = await database.read(
                    lambda c, table=table: c.execute(text(f"SELECT t::text FROM {table} t")).scalars().all()
                )
                assert not any(job.lease_token in line for line in found)


async def test_a_call_with_another_token_finds_the_lease_lost_and_changes_nothing(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await cancel(services, job)
        before = await row(database, job)
        for verb in HOLDERS_VERBS:
            for token in ("x", f"{job.lease_token}x", "é" * 128):
                with pytest.raises(LeaseLost):
                    await verb(services, job, leaseToken=token)
        assert await row(database, job) == before


async def test_a_call_of_another_worker_is_told_who_holds_the_job(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        job = await claimed(services, "holder")
        await cancel(services, job)
        before = await row(database, job)
        for verb in HOLDERS_VERBS:
            with pytest.raises(JobNotOwned, match="holder"):
                await verb(services, job, workerId="another")  # though it has the token
            if verb is not release:
                with pytest.raises(JobNotOwned, match="holder"):
                    await verb(services, job, workerId="another", leaseToken=None)
        assert await row(database, job) == before


async def test_without_a_token_the_workers_id_decides(database_url: str) -> None:
    async with core(database_url) as (services, _):
        for _number in range(3):
            await enqueue(services)
        done, broken, stopped = [await claimed(services) for _ in range(3)]
        assert (await heartbeat(services, done, leaseToken=None)).status is JobStatus.RUNNING
        assert (await complete(services, done, leaseToken=None)).status is JobStatus.SUCCEEDED
        assert (await fail(services, broken, leaseToken=None)).status is JobStatus.FAILED
        await cancel(services, stopped)
        assert (await cancel_ack(services, stopped, leaseToken=None)).status is JobStatus.CANCELLED


async def test_a_system_that_requires_tokens_refuses_calls_without_one(database_url: str) -> None:
    async with core(database_url, require_lease_token=True) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await cancel(services, job)
        before = await row(database, job)
        for verb in (heartbeat, complete, fail, cancel_ack):
            with pytest.raises(InvalidRequest, match="leaseToken"):
                await verb(services, job, leaseToken=None)
        assert await row(database, job) == before
        assert (await heartbeat(services, job)).status is JobStatus.RUNNING
        assert (await cancel_ack(services, job)).status is JobStatus.CANCELLED
