"""Claims that share a statement, or a turn of the writer: each has its own job, token and answer."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import anyio
import asyncpg
import pytest

from holdfast_core.db.postgres import plain_url
from holdfast_core.errors import HoldfastError, KeyReused
from holdfast_core.schemas import ClaimAnswer, Job
from holdfast_core.services import Services
from holdfast_core.services.batches import MOST_TOGETHER
from holdfast_core.states import JobStatus
from support.core import claim, claimed, column, complete, enqueue, get, heartbeat, pause, session, until
from support.stores import core

pytestmark = pytest.mark.anyio

KIND = (None, ())


class Line:
    """Claims that are made to stand in line, and go out as one statement when they are called up."""

    def __init__(self, services: Services, tasks: anyio.abc.TaskGroup) -> None:
        self.got: dict[str, ClaimAnswer | HoldfastError] = {}
        self.scopes: dict[str, anyio.CancelScope] = {}
        #: How many claims each statement was for, and how many jobs came of it.
        self.statements: list[tuple[int, int]] = []
        self._services = services
        self._batches: Any = services.claims._batches
        self._together = self._batches._together
        self._batches._together = self._count
        self._tasks = tasks
        self._batches._lines[KIND] = deque()  # as if one were under way

    async def _count(self, calls: Sequence[Any]) -> Sequence[Any]:
        told = await self._together(calls)
        self.statements.append(
            (len(calls), sum(taken is not None and taken.job is not None for taken in told))
        )
        return told

    async def come(self, name: str, worker: str | None = None, **body: Any) -> None:
        self.scopes[name] = anyio.CancelScope()
        before = self._batches.waiting(KIND)
        self._tasks.start_soon(self._claim, name, worker or name, body)
        with anyio.fail_after(5):
            while self._batches.waiting(KIND) == before:
                await anyio.lowlevel.checkpoint()

    async def _claim(self, name: str, worker: str, body: dict[str, Any]) -> None:
        with self.scopes[name]:
            try:
                self.got[name] = await claim(self._services, worker, **body)
            except HoldfastError as error:
                self.got[name] = error

    def call_up(self) -> None:
        self._batches._call_up(KIND)

    def job(self, name: str) -> Job:
        answer = self.got[name]
        assert isinstance(answer, ClaimAnswer)
        assert answer.job is not None
        return answer.job


async def test_jobs_are_handed_out_in_the_order_in_which_the_claims_came(database_url: str) -> None:
    async with core(database_url) as (services, _):
        low = [await enqueue(services, type=f"t{number % 3}") for number in range(6)]
        high = [await enqueue(services, priority=5) for _ in range(2)]
        async with anyio.create_task_group() as tasks:
            line = Line(services, tasks)
            for number in range(10):
                await line.come(f"w{number}", leaseSeconds=60 + 60 * number)
            line.call_up()
        assert line.statements == [(10, 8)]
        jobs = [line.job(f"w{number}") for number in range(8)]
        assert [job.id for job in jobs] == [job.id for job in [*high, *low]]
        assert [job.claimed_by for job in jobs] == [f"w{number}" for number in range(8)]
        assert len({job.lease_token for job in jobs}) == 8
        for number, job in enumerate(jobs):
            assert job.lease_expires_at is not None
            assert job.started_at is not None
            lease = (job.lease_expires_at - job.started_at).total_seconds()
            assert lease == pytest.approx(60 + 60 * number, abs=1)
        for name in ("w8", "w9"):
            answer = line.got[name]
            assert isinstance(answer, ClaimAnswer)
            assert (answer.job, answer.system.workers_paused) == (None, False)
        # Each token is that of its own job.
        for job in jobs:
            await heartbeat(services, job)
            await complete(services, job)


async def test_a_request_id_has_one_job_whoever_else_is_in_the_statement(database_url: str) -> None:
    async with core(database_url) as (services, database):
        made = [await enqueue(services) for _ in range(6)]
        running = await claimed(services, "held", requestId="r")
        over = await claimed(services, "over", requestId="r")
        await complete(services, over)
        async with anyio.create_task_group() as tasks:
            line = Line(services, tasks)
            await line.come("held", requestId="r")
            await line.come("over", requestId="r")
            await line.come("twin-1", "twin", requestId="r")
            await line.come("plain-1", "plain")
            await line.come("twin-2", "twin", requestId="r")
            await line.come("plain-2", "plain")
            await line.come("other", "twin", requestId="s")
            line.call_up()
        assert line.statements == [(7, 4)]
        assert isinstance(line.got["over"], KeyReused)
        again = line.job("held")
        assert again.id == running.id
        assert again.lease_token != running.lease_token
        # The repeat has the job; the call that it repeats is a late twin now.
        late = line.got["twin-1"]
        assert isinstance(late, ClaimAnswer)
        assert late.job is None
        await heartbeat(services, line.job("twin-2"))
        fresh = [line.job(name).id for name in ("plain-1", "twin-2", "plain-2", "other")]
        assert fresh == [job.id for job in made[2:]]
        assert await column(database, line.job("other"), "request_id") == "s"
        assert await column(database, line.job("plain-1"), "request_id") is None


async def test_claims_that_see_fewer_jobs_than_they_are_get_null_behind_those_who_came_first(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        only = await enqueue(services)
        async with anyio.create_task_group() as tasks:
            line = Line(services, tasks)
            for number in range(MOST_TOGETHER):
                await line.come(f"w{number}")
            line.call_up()
        assert line.statements == [(MOST_TOGETHER, 1)]
        assert line.job("w0").id == only.id
        assert [answer.job for answer in list(line.got.values()) if isinstance(answer, ClaimAnswer)].count(
            None
        ) == MOST_TOGETHER - 1


@pytest.mark.parametrize("leaving", ["w0", "w1"])
async def test_a_claim_cancelled_in_a_batch_gives_its_own_job_back_and_no_other(
    database_url: str, leaving: str
) -> None:
    """Also where it is the one who sent the statement (w0)."""
    async with core(database_url) as (services, database):
        made = [await enqueue(services) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            line = Line(services, tasks)
            count = line._batches._together

            async def then_gone(calls: Sequence[Any]) -> Sequence[Any]:
                told: Sequence[Any] = await count(calls)
                line.scopes[leaving].cancel()
                return told

            line._batches._together = then_gone
            for number in range(3):
                await line.come(f"w{number}", requestId="r")
            line.call_up()
        assert line.statements == [(3, 3)]
        assert line.scopes[leaving].cancelled_caught
        back = made[int(leaving[1:])]
        row = await get(services, back)
        assert (row.status, row.attempt, row.claimed_by) == (JobStatus.QUEUED, 1, None)
        assert await column(database, back, "claim_outcome") == "release"
        staying = [name for name in ("w0", "w1", "w2") if name != leaving]
        for name in staying:
            await heartbeat(services, line.job(name))
        # Its requestId may be used again.
        assert (await claimed(services, leaving, requestId="r")).id == back.id


async def test_a_claim_cancelled_in_line_takes_nothing(database_url: str) -> None:
    async with core(database_url) as (services, database):
        made = [await enqueue(services) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            line = Line(services, tasks)
            for number in range(3):
                await line.come(f"w{number}")
            line.scopes["w1"].cancel()
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            line.call_up()
        assert line.statements == [(2, 2)]
        assert (line.job("w0").id, line.job("w2").id) == (made[0].id, made[1].id)
        assert await column(database, made[2], "claim_number") is None


async def test_a_pause_that_comes_while_a_batch_is_under_way_is_answered_to_all_of_it(
    postgres_database_url: str,
) -> None:
    """A claimer is in the door, the pause waits for it, and the batch for the pause."""
    async with core(postgres_database_url) as (services, database), session(postgres_database_url) as other:
        made = [await enqueue(services) for _ in range(4)]
        watching = await asyncpg.connect(plain_url(postgres_database_url))

        async def waiting_for_the_door(mode: str) -> bool:
            return bool(
                await watching.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE relation = 'pause_gate'::regclass AND NOT granted"
                    " AND mode = $1",
                    mode,
                )
            )

        await other.execute("BEGIN; SELECT 1 FROM pause_gate FOR KEY SHARE")
        async with anyio.create_task_group() as tasks:
            line = Line(services, tasks)
            for number in range(4):
                await line.come(f"w{number}")
            tasks.start_soon(pause, services)
            await until(lambda: waiting_for_the_door("ExclusiveLock"))
            line.call_up()
            await until(lambda: waiting_for_the_door("RowShareLock"))
            await other.execute("COMMIT")
        await watching.close()
        assert line.statements == [(4, 0)]
        assert len(line.got) == 4
        for answer in line.got.values():
            assert isinstance(answer, ClaimAnswer)
            assert (answer.job, answer.system.workers_paused, answer.system.version) == (None, True, 2)
        for job in made:
            assert await column(database, job, "claim_number") is None


async def test_claims_for_other_types_or_capabilities_do_not_share_a_statement(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services, type="a")
        gpu = await enqueue(services, type="b", requiredCapabilities=["gpu"])
        async with anyio.create_task_group() as tasks:
            Line(services, tasks)  # one for any type is under way, for good
            with anyio.fail_after(5):
                assert (await claim(services, allowedTypes=["c"])).job is None
                assert (await claimed(services, allowedTypes=["b"], workerCapabilities=["gpu"])).id == gpu.id
