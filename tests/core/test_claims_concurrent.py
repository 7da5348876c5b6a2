"""Many claimers in several processes: each job goes to one of them, and none is left over."""

import time
from collections import Counter
from contextlib import AsyncExitStack
from statistics import median

import anyio
import pytest

from holdfast_core.schemas import Job
from holdfast_core.services import Services
from holdfast_core.settings import load_settings
from holdfast_core.states import JobStatus
from holdfast_server.compose import open_services
from support.core import claim, enqueue, get, release
from support.stores import core

pytestmark = pytest.mark.anyio

PROCESSES = 3
CLAIMERS_EACH = 12
JOBS = 120


async def test_no_job_goes_to_two_claimers_and_none_is_passed_over(database_url: str) -> None:
    settings = load_settings(database_url=database_url, database_pool_size=8)
    got: list[Job] = []
    taking = Counter[int]()

    async def take_all(number: int, services: Services, worker: str) -> None:
        while (job := (await claim(services, worker)).job) is not None:
            assert job.claimed_by == worker
            got.append(job)
            taking[number] += 1

    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(open_services(settings)) for _ in range(PROCESSES)]
        made = [await enqueue(processes[0], type=f"t{number % 3}") for number in range(JOBS)]
        async with anyio.create_task_group() as tasks:
            for number, services in enumerate(processes):
                for claimer in range(CLAIMERS_EACH):
                    tasks.start_soon(take_all, number, services, f"w-{number}-{claimer}")
        assert sorted(job.id for job in got) == sorted(job.id for job in made)
        assert len({job.lease_token for job in got}) == JOBS
        assert len(taking) == PROCESSES, "one process took them all: they did not race"
        for job in got[:10]:
            now = await get(processes[0], job)
            assert (now.status, now.claimed_by, now.attempt) == (JobStatus.RUNNING, job.claimed_by, 1)


async def test_a_job_put_back_while_many_claim_goes_to_one_of_them(database_url: str) -> None:
    settings = load_settings(database_url=database_url, database_pool_size=8)
    holders: list[Job] = []
    rounds = Counter[str]()

    async def work(services: Services, worker: str) -> None:
        while sum(rounds.values()) < 80:
            job = (await claim(services, worker, waitSeconds=1)).job
            if job is not None:
                holders.append(job)
                assert len(holders) == 1, "two hold it at once"
                await anyio.lowlevel.checkpoint()
                holders.remove(job)
                rounds[worker] += 1
                await release(services, job)

    async with open_services(settings) as first, open_services(settings) as second:
        job = await enqueue(first)
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(work, (first, second)[number % 2], f"w-{number}")
        assert len(rounds) > 2, "hardly anybody had a turn"
        assert (await get(first, job)).attempt == 1


async def test_a_claim_takes_milliseconds_whether_it_finds_a_job_or_not(database_url: str) -> None:
    """Whatever the sessions of claims tell the planner: with it, PostgreSQL must not take to compiling (`jit`)
    each claim, which costs a hundred times what the claim does."""
    async with core(database_url) as (services, _):
        for _number in range(15):
            await enqueue(services)
        took: list[float] = []
        for _number in range(30):
            begun = time.monotonic()
            await claim(services)
            took.append(time.monotonic() - begun)
        assert median(took[:15]) < 0.1
        assert median(took[15:]) < 0.1
