"""Lists of jobs: what the filters mean, and pages that miss nothing and repeat nothing."""

from typing import Any
from uuid import UUID

import pytest

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.errors import InvalidRequest
from holdfast_core.schemas import Job, JobPage, JobQuery, parse_query
from holdfast_core.services import Services
from support.core import cancel, claimed, complete, enqueue
from support.stores import core

pytestmark = pytest.mark.anyio


async def page(services: Services, **said: Any) -> JobPage:
    pairs = [(name, str(value)) for name, value in said.items()]
    return await services.jobs.list(LOCAL_OPERATOR, parse_query(JobQuery, pairs))


async def found(services: Services, **said: Any) -> list[UUID]:
    return [job.id for job in (await page(services, **said)).items]


def ids(*made: Job) -> list[UUID]:
    return [job.id for job in made]


async def test_a_list_is_newest_first_and_each_filter_narrows_it(database_url: str) -> None:
    async with core(database_url) as (services, _):
        build = await enqueue(services, type="build")
        test = await enqueue(services, type="test")
        gone = await enqueue(services, type="test")
        held = await claimed(services, "w-1", allowedTypes=["build"])
        done = await claimed(services, "w-2", allowedTypes=["test"])
        await complete(services, done)
        await cancel(services, gone)
        assert await found(services) == ids(gone, test, build)
        assert await found(services, status="running") == ids(held)
        assert await found(services, status="succeeded") == ids(test)
        assert await found(services, status="cancelled") == ids(gone)
        assert await found(services, status="queued") == []
        assert await found(services, type="test") == ids(gone, test)
        assert await found(services, type="tes") == []
        assert await found(services, claimedBy="w-2") == ids(done)
        assert await found(services, type="test", claimedBy="w-1") == []
        assert await found(services, type="test", status="succeeded", claimedBy="w-2", q="TES") == ids(test)
        shown = (await page(services)).items[1]
        assert shown == await services.jobs.get(LOCAL_OPERATOR, str(test.id))


async def test_q_finds_a_part_of_type_worker_or_id_in_any_case(database_url: str) -> None:
    async with core(database_url) as (services, _):
        first = await enqueue(services, type="Render/Video@4k")
        second = await enqueue(services, type="mail")
        await claimed(services, "Host-7:agent", allowedTypes=["mail"])
        assert await found(services, q="video") == ids(first)
        assert await found(services, q="HOST-7") == ids(second)
        assert await found(services, q=str(first.id)[9:].upper()) == ids(first)
        assert await found(services, q=str(second.id)) == ids(second)
        assert await found(services, q="nowhere") == []


async def test_q_is_taken_literally(database_url: str) -> None:
    async with core(database_url) as (services, _):
        for name in ("aXb", "a.b", "a/b", "ab"):
            await enqueue(services, type=name)
        for q in ("%", "_", "\\", "a%b", "a_b", "%_\\%", "\\%", "'", '"', "\0", "😀", ":x", "a\\"):
            assert await found(services, q=q) == [], q
        assert len(await found(services, q="a")) == 4


async def test_an_underscore_in_q_finds_an_underscore(database_url: str) -> None:
    async with core(database_url) as (services, _):
        wanted = await enqueue(services, type="a_b")
        await enqueue(services, type="aXb")
        assert await found(services, q="a_b") == ids(wanted)
        assert await found(services, q="_") == ids(wanted)


async def test_the_cursor_walks_all_jobs_once_newest_first_while_new_ones_come_in(database_url: str) -> None:
    async with core(database_url) as (services, _):
        for limit in (1, 7, 24, 25, 26, 200):
            made = [await enqueue(services, type=f"limit-{limit}") for _ in range(25)]
            walked: list[UUID] = []
            cursor: dict[str, Any] = {}
            while True:
                answer = await page(services, limit=limit, type=f"limit-{limit}", **cursor)
                assert 0 < len(answer.items) <= limit
                walked += [job.id for job in answer.items]
                if answer.next_cursor is None or len(walked) > 25:
                    break
                cursor = {"cursor": answer.next_cursor}
                await enqueue(services, type=f"limit-{limit}")
                await cancel(services, made[0])  # nor does a change move a job to another page
            assert walked == [job.id for job in reversed(made)]


async def test_the_cursor_goes_with_the_filters(database_url: str) -> None:
    async with core(database_url) as (services, _):
        made = [await enqueue(services, type=f"t{number % 2}") for number in range(10)]
        first = await page(services, limit=3, type="t1")
        second = await page(services, limit=3, type="t1", cursor=first.next_cursor)
        assert ids(*first.items, *second.items) == ids(*reversed(made[1::2]))
        assert second.next_cursor is None


async def test_a_cursor_that_is_not_ours_is_refused(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        for cursor in ("x", "", "1 OR 1=1", "0199f0c2-8a3e-7c41-9f52", "\0"):
            with pytest.raises(InvalidRequest, match="cursor"):
                await page(services, cursor=cursor)
        assert await found(services, cursor=str(UUID(int=0))) == []
        assert len(await found(services, cursor=str(UUID(int=2**128 - 1)))) == 1


async def test_no_jobs_make_an_empty_page(database_url: str) -> None:
    async with core(database_url) as (services, _):
        assert await page(services) == JobPage(items=[], next_cursor=None)
