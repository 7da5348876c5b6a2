"""Heartbeats, completes and new jobs that go out together: each is answered as it would be alone."""

from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import anyio
import pytest
from sqlalchemy import Connection, text

from holdfast_core.db import Database, Lane
from holdfast_core.db.tables import jobs
from holdfast_core.errors import HoldfastError, JobNotFound, JobNotOwned, KeyReused, LeaseLost
from holdfast_core.ids import uuid7
from holdfast_core.schemas import HeartbeatAnswer, Job
from holdfast_core.states import JobPhase, JobStatus
from holdfast_core.store.lease_batches import held_statement
from support.core import claimed, column, complete, enqueue, fail, get, heartbeat, pause, row, session, until
from support.stores import core

pytestmark = pytest.mark.anyio


class Together:
    """Calls that go out as one statement, and what each came to, in their order."""

    def __init__(self, batches: Any, tasks: anyio.abc.TaskGroup) -> None:
        self.got: list[Any] = []
        self.sizes: list[int] = []
        self._batches = batches
        self._tasks = tasks
        together = batches._together

        async def counted(asked: Any) -> Any:
            self.sizes.append(len(asked))
            return await together(asked)

        batches._together = counted
        batches._lines[None] = deque()  # as if one were under way

    async def come(self, call: Awaitable[Any]) -> None:
        number, before = len(self.got), self._batches.waiting(None)
        self.got.append(None)

        async def calling() -> None:
            try:
                self.got[number] = await call
            except HoldfastError as error:
                self.got[number] = error

        self._tasks.start_soon(calling)
        with anyio.fail_after(5):
            while self._batches.waiting(None) == before:
                await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def together(batches: Any) -> AsyncGenerator[Together]:
    """The calls that come in the block go out as one statement at its end."""
    async with anyio.create_task_group() as tasks:
        one = Together(batches, tasks)
        yield one
        batches._call_up(None)


async def held(url_services: Any, count: int) -> list[Job]:
    for _ in range(count):
        await enqueue(url_services, payload={"big": "x"})
    return [await claimed(url_services, f"w{number}") for number in range(count)]


def like(job: Job, **changes: Any) -> Job:
    return job.model_copy(update=changes)


async def test_heartbeats_in_one_statement_say_each_their_own(database_url: str) -> None:
    async with core(database_url) as (services, database):
        first, second, third, stolen = await held(services, 4)
        before = await row(database, third)
        progressed = [await column(database, job, "progressed_at") for job in (first, second, third)]
        async with together(services.leases._batches) as one:
            await one.come(
                heartbeat(services, first, phase="parking", progress={"done": 3}, leaseSeconds=600)
            )
            await one.come(heartbeat(services, second, checkpoint="after tests", compact=True))
            await one.come(heartbeat(services, third, leaseToken=None))
            await one.come(heartbeat(services, like(stolen, lease_token="x" * 32)))
            await one.come(heartbeat(services, like(stolen, claimed_by="somebody-else")))
            await one.come(heartbeat(services, like(stolen, id=uuid7())))
        assert one.sizes == [6]
        told = one.got
        assert all(isinstance(answer, HeartbeatAnswer) for answer in told[:3])
        assert (told[0].phase, told[0].progress, told[0].checkpoint) == (JobPhase.PARKING, {"done": 3}, None)
        assert (told[1].phase, told[1].checkpoint, told[1].progress) == (
            JobPhase.RUNNING,
            "after tests",
            None,
        )
        assert [answer.payload for answer in told[:3]] == [{"big": "x"}, None, {"big": "x"}]
        assert [answer.system.version for answer in told[:3]] == [1, 1, 1]
        assert (told[0].lease_expires_at - told[2].lease_expires_at).total_seconds() == pytest.approx(
            540, abs=1
        )
        assert [type(answer) for answer in told[3:]] == [LeaseLost, JobNotOwned, JobNotFound]
        assert await row(database, third) != before
        # What was said anew is progress; nothing that was said before is.
        moved = [
            await column(database, job, "progressed_at") != at
            for job, at in zip((first, second, third), progressed, strict=True)
        ]
        assert moved == [True, True, False]
        assert (await get(services, first)).progress == {"done": 3}
        await heartbeat(services, first)
        assert (await get(services, first)).progress == {"done": 3}


async def test_what_looks_like_json_is_kept_as_the_text_that_it_is(database_url: str) -> None:
    said = ['{"a": 1}', "null", "12", '"', "\\u0041 \\ 'it''s' \u2603 \U0001f680", ""]
    async with core(database_url) as (services, _):
        ended = await held(services, len(said))
        async with together(services.outcomes._completes) as one:
            for job, text_ in zip(ended, said, strict=True):
                await one.come(complete(services, job, resultSummary=text_))
        assert one.sizes == [len(said)]
        assert [answer.result_summary for answer in one.got] == said
        assert [(await get(services, job)).result_summary for job in ended] == said
        running = await held(services, len(said))
        async with together(services.leases._batches) as one:
            for job, text_ in zip(running, said, strict=True):
                await one.come(
                    heartbeat(
                        services, job, checkpoint=text_ or "-", progress={"said": text_, "of": [1.5, None]}
                    )
                )
        assert [answer.progress for answer in one.got] == [
            {"said": text_, "of": [1.5, None]} for text_ in said
        ]
        assert [(await get(services, job)).checkpoint for job in running] == [text_ or "-" for text_ in said]


async def test_two_heartbeats_for_one_job_in_one_statement_are_both_answered(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        job, other = await held(services, 2)
        async with together(services.leases._batches) as one:
            await one.come(heartbeat(services, job, checkpoint="one"))
            await one.come(heartbeat(services, other))
            await one.come(heartbeat(services, job, checkpoint="two"))
        assert one.sizes == [3]
        assert [answer.id for answer in one.got] == [job.id, other.id, job.id]
        assert [answer.checkpoint for answer in one.got] == ["one", None, "two"]
        assert (await get(services, job)).checkpoint == "two"


async def test_a_heartbeat_whose_row_somebody_holds_does_not_hold_up_the_others(
    postgres_database_url: str,
) -> None:
    async with core(postgres_database_url) as (services, _), session(postgres_database_url) as foreign:
        slow, *others = await held(services, 4)
        await foreign.execute("BEGIN")
        await foreign.execute("SELECT 1 FROM agent_jobs WHERE id = $1 FOR UPDATE", slow.id)
        async with anyio.create_task_group() as tasks:
            one = Together(services.leases._batches, tasks)
            for job in (others[0], slow, *others[1:]):
                await one.come(heartbeat(services, job))
            services.leases._batches._call_up(None)

            async def the_others_are_answered() -> bool:
                return [answer is not None for answer in one.got] == [True, False, True, True]

            await until(the_others_are_answered)
            assert (await heartbeat(services, others[0])).id == others[0].id, "nor those who come then"
            await foreign.execute("COMMIT")
        assert one.got[1].id == slow.id


async def test_a_pause_is_told_to_all_heartbeats_of_a_statement(database_url: str) -> None:
    async with core(database_url) as (services, _):
        found = await held(services, 3)
        async with together(services.leases._batches) as one:
            for job in found:
                await one.come(heartbeat(services, job))
            await pause(services)
        assert [(answer.system.version, answer.system.workers_paused) for answer in one.got] == [
            (2, True)
        ] * 3


async def test_completes_in_one_statement_end_each_job_once(database_url: str) -> None:
    async with core(database_url) as (services, database):
        first, second, done, failed, stolen = await held(services, 5)
        await complete(services, done, resultSummary="before")
        await fail(services, failed)
        written = await row(database, done)
        async with together(services.outcomes._completes) as one:
            await one.come(complete(services, first, resultSummary="one"))
            await one.come(complete(services, done, resultSummary="again"))
            await one.come(complete(services, second))
            await one.come(complete(services, failed))
            await one.come(complete(services, like(stolen, lease_token="x" * 32)))
            await one.come(complete(services, first, resultSummary="twice"))
        assert one.sizes == [6]
        assert [job.status for job in one.got[:3]] == [JobStatus.SUCCEEDED] * 3
        assert [job.result_summary for job in one.got[:3]] == ["one", "before", None]
        assert one.got[5].result_summary == "one", "a repeat answers again and writes nothing"
        assert await row(database, done) == written
        assert [type(error) for error in one.got[3:5]] == [LeaseLost, LeaseLost] or all(
            isinstance(error, HoldfastError) for error in one.got[3:5]
        )
        assert (await get(services, stolen)).status is JobStatus.RUNNING
        assert (await get(services, failed)).status is JobStatus.FAILED
        assert services.counters.own().count("jobs_complete") == 3


async def test_new_jobs_in_one_statement_keep_their_order_and_their_keys(postgres_database_url: str) -> None:
    async with core(postgres_database_url) as (services, _):
        await enqueue(services)  # the lane of t is there
        known = await enqueue(services, idempotencyKey="known")
        async with together(services.jobs._batches) as one:
            await one.come(enqueue(services, payload={"n": 1, "ü": [None, 1.5, "😀"]}, priority=3))
            await one.come(enqueue(services, type="new-lane", requiredCapabilities=["gpu", "arm"]))
            await one.come(enqueue(services, idempotencyKey="twice", affinityKey="a", maxAttempts=7))
            await one.come(enqueue(services, idempotencyKey="twice", affinityKey="a", maxAttempts=7))
            await one.come(enqueue(services, idempotencyKey="known"))
            await one.come(enqueue(services, idempotencyKey="known", payload={"other": True}))
            await one.come(enqueue(services, runAt="2100-01-01T00:00:00Z"))
        assert one.sizes == [7]
        plain, laned, twice, again, repeated, reused, later = one.got
        assert (plain.payload, plain.priority) == ({"n": 1, "ü": [None, 1.5, "😀"]}, 3)
        assert laned.required_capabilities == ["arm", "gpu"]
        assert (twice.affinity_key, twice.max_attempts) == ("a", 7)
        assert again.id == twice.id
        assert repeated.id == known.id
        assert isinstance(reused, KeyReused)
        assert later.next_attempt_at.year == 2100
        ids: list[UUID] = [job.id for job in (plain, laned, twice, later)]
        assert ids == sorted(ids)
        assert await get(services, plain) == plain
        first = await claimed(services)
        assert first.id == plain.id
        assert (
            await claimed(services, workerCapabilities=["arm", "gpu"], allowedTypes=["new-lane"])
        ).id == laned.id
        assert services.counters.own().count("jobs_enqueued") == 6


@pytest.mark.parametrize("verb", ["heartbeat", "complete"])
async def test_a_batch_probes_the_primary_key_though_the_table_was_small_when_it_was_planned(
    postgres_database_url: str, verb: Any
) -> None:
    async with core(postgres_database_url) as (services, database):
        await held(services, 3)
        await analyse(database)

        def explained(connection: Connection) -> str:
            connection.execute(text("SET plan_cache_mode = force_generic_plan"))
            compiled = held_statement(verb).compile(dialect=connection.dialect)
            names = compiled.positiontup or ()
            arguments = tuple(
                compiled.params[name] if compiled.params.get(name) is not None else None for name in names
            )
            try:
                return "\n".join(
                    line[0] for line in connection.exec_driver_sql(f"EXPLAIN {compiled}", arguments).all()
                )
            finally:
                connection.execute(text("RESET plan_cache_mode"))

        plan = await database.write(explained, lane=Lane.SINGLE)
        assert "Index Cond: (id = asked.job_id)" in plan, plan
        assert f"Seq Scan on {jobs.name}" not in plan, plan


async def analyse(database: Database) -> None:
    await database.write(lambda c: c.execute(text("ANALYZE agent_jobs")), lane=Lane.SINGLE)
