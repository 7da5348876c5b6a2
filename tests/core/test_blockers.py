"""What keeps the system from drained, and the last hours by the minute."""

from datetime import timedelta

import pytest

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.schemas import Blocker, MetricsHistoryQuery
from holdfast_core.services import Services
from support.core import claimed, complete, enqueue, expire, fail, heartbeat, pause, requeue, sql
from support.stores import core

pytestmark = pytest.mark.anyio


async def blockers(services: Services) -> list[Blocker]:
    return (await services.blockers.list(LOCAL_OPERATOR)).items


async def test_each_running_job_is_named_with_a_verdict_and_the_way_out(database_url: str) -> None:
    async with core(database_url, checkpoint_timeout_seconds=300) as (services, database):
        assert await blockers(services) == []
        jobs = []
        for number in range(4):
            await enqueue(services, type=f"t-{number}")
            jobs.append(await claimed(services, f"w-{number}"))
        working, slow, parked, stale = jobs
        await pause(services, "quiesce")
        await heartbeat(services, parked, phase="parked", checkpoint="after the tests")
        long_ago = "'2020-01-01T00:00:00.000000Z'"
        await sql(database, f"UPDATE agent_jobs SET progressed_at = {long_ago} WHERE id = '{slow.id}'")
        await heartbeat(services, slow)
        await expire(database, stale)
        found = await blockers(services)
        assert found[0].job_id == stale.id, "what nobody works on comes first"
        verdicts = {one.job_id: one.verdict for one in found}
        assert verdicts == {
            working.id: "progressing",
            slow.id: "slow",
            parked.id: "parked",
            stale.id: "stale",
        }
        by_id = {one.job_id: one for one in found}
        assert f"holdfast requeue {stale.id}" in by_id[stale.id].advice
        assert f"holdfast cancel {slow.id}" in by_id[slow.id].advice
        assert "resume" in by_id[parked.id].advice
        assert (by_id[parked.id].checkpoint, by_id[parked.id].worker_id) == ("after the tests", "w-2")
        assert by_id[slow.id].last_heartbeat_at > by_id[slow.id].progressed_at
        assert 0 <= by_id[working.id].age_seconds < 60
        # What it says anew is progress.
        await heartbeat(services, slow, checkpoint="step 2")
        assert {one.job_id: one.verdict for one in await blockers(services)}[slow.id] == "progressing"
        await requeue(services, stale)
        for job in (working, slow, parked):
            await complete(services, job)
        answer = await services.blockers.list(LOCAL_OPERATOR)
        assert (answer.items, answer.total, answer.system.workers_paused) == ([], 0, True)


async def test_to_repeat_what_was_said_is_no_progress(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        await heartbeat(services, job, checkpoint="a", phase="running")
        first = (await blockers(services))[0].progressed_at
        await heartbeat(services, job, checkpoint="a", phase="running")
        await heartbeat(services, job)
        assert (await blockers(services))[0].progressed_at == first
        await heartbeat(services, job, progress={"percent": 50})
        assert (await blockers(services))[0].progressed_at > first


async def test_each_minute_is_recorded_once_with_what_ended_in_it(database_url: str) -> None:
    async with core(database_url) as (one, database), core(database_url) as (two, _):
        for _number in range(4):
            await enqueue(one)
        await complete(one, await claimed(one))
        await complete(one, await claimed(one))
        await fail(one, await claimed(one))
        await claimed(one)
        await enqueue(one, runAt="2099-01-01T00:00:00Z")
        now = (await one.pause.status(LOCAL_OPERATOR)).metrics.measured_at
        minute = now.replace(second=0, microsecond=0) - timedelta(minutes=1)
        inside = f"'{(minute + timedelta(seconds=30)).strftime('%Y-%m-%dT%H:%M:%S.%fZ')}'"
        await sql(database, f"UPDATE agent_jobs SET finished_at = {inside} WHERE finished_at IS NOT NULL")
        await sql(database, "DELETE FROM metrics_history")
        recorded = [await services.history.record() for services in (one, two, one)]
        items = (await two.history.history(LOCAL_OPERATOR, MetricsHistoryQuery(minutes=5))).items
        assert recorded.count(True) <= 1, "or the background was first"
        assert len(items) == 1
        assert (items[0].succeeded, items[0].failed, items[0].cancelled, items[0].dead_letter) == (2, 1, 0, 0)
        assert (items[0].running, items[0].queued, items[0].scheduled) == (1, 0, 1)
        old = "'2020-01-01T00:00:00.000000Z'"
        await sql(database, f"UPDATE metrics_history SET minute = {old}")
        await one.history.record()
        items = (await two.history.history(LOCAL_OPERATOR, MetricsHistoryQuery(minutes=1_440))).items
        assert len(items) == 1, "what is older than a week is forgotten"
        assert items[0].minute >= minute
