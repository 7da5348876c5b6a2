"""Claims that wait for work: who is woken by what, and how a wait ends."""

import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from holdfast_core.changes.sqlite import SqliteBus
from holdfast_core.ids import uuid7
from holdfast_core.schemas import ClaimAnswer, EnqueueRequest, Job, parse_request
from holdfast_core.services import Services
from holdfast_core.services.waiters import Waiters
from holdfast_core.store.jobs import New, insert_jobs
from support.core import (
    cancel,
    claim,
    claimed,
    enqueue,
    expire,
    fail,
    get,
    pause,
    release,
    requeue,
    retry,
    until,
)
from support.stores import core

pytestmark = pytest.mark.anyio

#: Rounds of "wait, then be woken" must come to less than this together; by the poll alone each takes a second.
BEFORE_THE_POLL = 2.5
ROUNDS = 4


async def waiting(services: Services, count: int) -> None:
    """Until so many claims of this process wait."""

    async def so_many() -> bool:
        return len(services.waiters) == count

    await until(so_many)


async def woken_by(services: Services, act: Callable[[], Awaitable[Job]]) -> float:
    """How long after `act` had returned a claim that waited had the job."""
    answers: list[ClaimAnswer] = []
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            answers.append(await claim(services, "waiter", waitSeconds=20))

        tasks.start_soon(wait)
        await waiting(services, 1)
        job = await act()
        begun = time.monotonic()
    took = time.monotonic() - begun
    assert answers[0].job is not None
    assert answers[0].job.id == job.id
    return took


async def test_an_enqueue_in_the_same_process_wakes_a_waiting_claim(database_url: str) -> None:
    async with core(database_url) as (services, _):
        took = [await woken_by(services, lambda: enqueue(services)) for _ in range(ROUNDS)]
        assert sum(took) < BEFORE_THE_POLL


async def test_an_enqueue_in_another_process_wakes_a_waiting_claim(database_url: str) -> None:
    async with core(database_url) as (services, _), core(database_url) as (others, _):
        took = [await woken_by(services, lambda: enqueue(others)) for _ in range(ROUNDS)]
        assert sum(took) < BEFORE_THE_POLL


async def test_whatever_puts_a_job_back_wakes_a_waiting_claim(database_url: str) -> None:
    async with core(database_url, lease_retry_delay_seconds=0) as (services, database):

        async def held() -> Job:
            await enqueue(services)
            return await claimed(services)

        async def ended() -> Job:
            job = await held()
            await fail(services, job)
            return job

        to_release, to_fail, to_requeue, to_retry = await held(), await held(), await held(), await ended()
        await expire(database, to_requeue)
        took = [
            await woken_by(services, lambda: release(services, to_release)),
            await woken_by(services, lambda: fail(services, to_fail, retryable=True)),
            await woken_by(services, lambda: requeue(services, to_requeue)),
            await woken_by(services, lambda: retry(services, to_retry)),
        ]
        assert sum(took) < BEFORE_THE_POLL


async def test_a_burst_of_work_is_shared_out_among_all_who_wait(database_url: str) -> None:
    """The jobs come in one commit with one announcement: who takes one wakes the next."""
    count = 15
    got: list[Job | None] = []

    async def wait(services: Services, worker: str) -> None:
        got.append((await claim(services, worker, waitSeconds=20)).job)

    async with core(database_url) as (services, database):
        request, _ = parse_request(EnqueueRequest, {"type": "t"})
        with anyio.fail_after(5):  # one by one with the poll it would be 15 s
            async with anyio.create_task_group() as tasks:
                for number in range(count):
                    tasks.start_soon(wait, services, f"w-{number}")
                await waiting(services, count)
                made = await database.write(
                    lambda c: insert_jobs(c, [New(uuid7(), request, None, None, None) for _ in range(count)])
                )
                services.watch.hub.publish("jobs")
        assert sorted(job.id for job in got if job is not None) == sorted(job.id for job in made)


async def test_a_waiter_gets_only_work_that_it_asked_for(database_url: str) -> None:
    got: dict[str, Job | None] = {}

    async def wait(services: Services, worker: str, **wants: Any) -> None:
        got[worker] = (await claim(services, worker, waitSeconds=20, **wants)).job

    async with core(database_url) as (services, _):
        async with anyio.create_task_group() as tasks:
            for worker, wants in {
                "builder": {"allowedTypes": ["build"]},
                "tester": {"allowedTypes": ["test"]},
                "gpu-tester": {"allowedTypes": ["test"], "workerCapabilities": ["gpu"]},
            }.items():
                tasks.start_soon(partial(wait, services, worker, **wants))
            await waiting(services, 3)
            gpu = await enqueue(services, type="test", requiredCapabilities=["gpu"])
            await waiting(services, 2)
            plain = await enqueue(services, type="test")
            await waiting(services, 1)
            assert {worker: job.id for worker, job in got.items() if job} == {
                "gpu-tester": gpu.id,
                "tester": plain.id,
            }
            build = await enqueue(services, type="build")
        assert got["builder"] is not None
        assert got["builder"].id == build.id


@pytest.mark.requirement("FR-005")
async def test_a_pause_answers_every_waiting_claim_at_once_in_every_process(database_url: str) -> None:
    answers: list[tuple[ClaimAnswer, float]] = []

    async def wait(services: Services, worker: str) -> None:
        answers.append((await claim(services, worker, waitSeconds=30), time.monotonic()))

    async with core(database_url) as (services, _), core(database_url) as (others, _):
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                for process in (services, others):
                    tasks.start_soon(wait, process, f"w-{number}")
            await waiting(services, 8)
            await waiting(others, 8)
            await pause(services, mode="quiesce")
            paused_at = time.monotonic()
        assert max(at for _, at in answers) - paused_at < 1
        for answer, _ in answers:
            assert answer.job is None
            assert answer.system.workers_paused
            assert (answer.system.version, answer.system.mode) == (2, "quiesce")
        assert len(answers) == 16


async def test_a_wait_that_runs_out_is_answered_null_and_not_before(database_url: str) -> None:
    async with core(database_url) as (services, _):
        begun = time.monotonic()
        answer = await claim(services, waitSeconds=0.3)
        took = time.monotonic() - begun
        assert answer.job is None
        assert not answer.system.workers_paused
        assert 0.29 <= took < 2
        assert len(services.waiters) == 0


async def test_a_waiting_claim_gets_a_job_that_becomes_due_meanwhile(database_url: str) -> None:
    async with core(database_url) as (services, _):
        first = await enqueue(services)
        due = first.created_at + timedelta(seconds=0.5)
        await cancel(services, first)
        job = await enqueue(services, runAt=due.isoformat())
        assert (await claim(services)).job is None
        got = await claimed(services, waitSeconds=20)
        assert got.id == job.id
        assert got.started_at is not None
        assert due <= got.started_at < due + timedelta(seconds=5)


async def test_a_waiting_claim_that_is_cancelled_leaves_the_row_and_the_work_to_the_next(
    database_url: str,
) -> None:
    got: list[Job | None] = []

    async def wait(services: Services, worker: str, scope: anyio.CancelScope) -> None:
        with scope:
            got.append((await claim(services, worker, waitSeconds=20)).job)

    async with core(database_url) as (services, _):
        async with anyio.create_task_group() as tasks:
            leaving = anyio.CancelScope()
            tasks.start_soon(wait, services, "leaving", leaving)
            await waiting(services, 1)
            tasks.start_soon(wait, services, "staying", anyio.CancelScope())
            await waiting(services, 2)
            leaving.cancel()
            await waiting(services, 1)
            job = await enqueue(services)
        assert leaving.cancelled_caught
        assert [one.claimed_by for one in got if one] == ["staying"]
        now = await get(services, job)
        assert (now.claimed_by, now.attempt) == ("staying", 1)


def test_a_waiter_that_leaves_awake_wakes_the_next_of_its_row_and_no_other() -> None:
    waiters = Waiters(SqliteBus(Path("nowhere")))
    with ExitStack() as rows:
        with waiters.join((None, ())) as leaving:
            next_one = rows.enter_context(waiters.join((None, ())))
            elsewhere = rows.enter_context(waiters.join((("t",), ())))
            leaving.wake()
            assert not next_one.woken
        assert next_one.woken
        assert not elsewhere.woken
        next_one.rest()
        waiters.wake_first()
        assert (next_one.woken, elsewhere.woken) == (True, True)
    assert len(waiters) == 0
