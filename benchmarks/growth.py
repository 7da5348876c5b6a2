"""What large tables cost, on PostgreSQL: status, claims that find a job or none, and churn.

    python benchmarks/growth.py [--quick]

The tables are filled by INSERT ... SELECT FROM generate_series, then vacuumed and analysed as autovacuum would in its
time. Claims are made by one caller of our core in process, in which no transport hides what the statement costs; blocks
of claims on the databases that are compared take turns.

- *much finished*: 10 thousand jobs of one type queued behind a million of another, and five million finished ones.
- *future*: 10 thousand jobs queued, behind a million of the same type that are not yet due.
- *little*: 10 thousand jobs queued, and nothing else.
- churn: a database in which jobs are enqueued, claimed and completed; first a thousand by one caller, then many by 64,
  then a thousand by one again.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import asyncpg
import httpx2
import uvloop
from common import (
    Databases,
    Options,
    Section,
    at_most,
    fill,
    logs_to_stderr,
    main,
    median,
    migrated,
    percentile,
    say,
    start_server,
)

from core import claiming, complete, enqueue_many
from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.schemas import EnqueueRequest, parse_request
from holdfast_core.services import Services
from holdfast_core.settings import load_settings
from holdfast_server.compose import open_services

#: A database, a type of job, and whether a claim of it finds one.
Side = tuple[str, str, bool]

STATUS_GAP_SECONDS = 0.1
BLOCK = 50
CHURNERS = 64


@asynccontextmanager
async def services_on(url: str) -> AsyncGenerator[Services]:
    """Our core, in this process."""
    async with open_services(load_settings(database_url=url, database_pool_size=10)) as services:
        yield services


async def claims(services: Services, count: int, job_type: str, *, finds: bool) -> list[float]:
    """The milliseconds of so many claims, one after the other. What they get is completed in between."""
    found: list[float] = []
    request = claiming("bench", allowedTypes=[job_type])
    for _ in range(count):
        begun = time.perf_counter()
        job = (await services.claims.claim(LOCAL_OPERATOR, request)).job
        found.append((time.perf_counter() - begun) * 1_000)
        assert (job is not None) == finds, f"{job_type}: {job}"
        if job is not None:
            await complete(services, job)
    return found


async def compare(sides: list[tuple[Services, str, bool]], count: int) -> list[list[float]]:
    """The milliseconds of claims on each side, in turns. A side: where, of which type, and whether there are any."""
    found: list[list[float]] = [[] for _ in sides]
    for turn in range(count // BLOCK + 1):  # the first one warms up
        for times, (services, job_type, finds) in zip(found, sides, strict=True):
            block = await claims(services, BLOCK, job_type, finds=finds)
            if turn:
                times.extend(block)
    return found


async def status(url: str, count: int) -> list[float]:
    """The milliseconds of so many looks at the status, as a dashboard and some scripts make them: ten a second."""
    found: list[float] = []
    async with httpx2.AsyncClient(base_url=url, timeout=30) as http:
        for number in range(count + 1):
            begun = time.perf_counter()
            (await http.get("/api/system/worker-pause")).raise_for_status()
            if number:  # the first opens the connection, and counts for the first time
                found.append((time.perf_counter() - begun) * 1_000)
            await asyncio.sleep(STATUS_GAP_SECONDS * random.uniform(0.5, 1.5))
    return found


async def cycles(services: Services, count: int) -> list[float]:
    """Enqueue, claim and complete so many jobs, one after the other; the milliseconds of the claims."""
    found: list[float] = []
    claim = claiming("bench")
    enqueue = parse_request(EnqueueRequest, {"type": "noop", "payload": {"n": 1}})[0]
    for _ in range(count):
        await services.jobs.enqueue(LOCAL_OPERATOR, enqueue)
        begun = time.perf_counter()
        job = (await services.claims.claim(LOCAL_OPERATOR, claim)).job
        found.append((time.perf_counter() - begun) * 1_000)
        assert job is not None, "it was just enqueued"
        await complete(services, job)
    return found


async def churn(services: Services, count: int) -> None:
    """The same by one of many, who enqueues a hundred at a time."""
    for _ in range(count // 100):
        await enqueue_many(services, 100)
        for _ in range(100):
            job = (await services.claims.claim(LOCAL_OPERATOR, claiming("bench"))).job
            assert job is not None, "each takes as many as it has brought"
            await complete(services, job)


async def sizes(url: str) -> dict[str, int]:
    """Bytes of the table of jobs, of its indexes, and of the index that claims walk."""
    connection: Any = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "SELECT pg_table_size('agent_jobs') AS table, pg_indexes_size('agent_jobs') AS indexes,"
            " pg_relation_size('ix_agent_jobs_ready') AS ready"
        )
        return dict(row)
    finally:
        await connection.close()


async def compact(url: str) -> None:
    """Write the table and its indexes anew, with nothing dead in them."""
    connection: Any = await asyncpg.connect(url)
    try:
        await connection.execute("VACUUM FULL agent_jobs")
    finally:
        await connection.close()


async def measure_claims(much: str, future: str, little: str, options: Options, section: Section) -> None:
    """Fill the three databases; the rows about claims on them."""
    million, few = options.of(1_000_000, 20_000), options.of(10_000, 2_000)
    count = options.of(1_000, BLOCK)
    begun = time.monotonic()
    await fill(much, "done", 5 * million, kind="finished", age_days=9)
    await fill(much, "other", million, age_days=5)
    await fill(future, "own", million, kind="future", age_days=5)
    for url in (much, future, little):
        await fill(url, "none", 0)  # a lane, and nothing in it
    say(f"  filled in {time.monotonic() - begun:.0f} s")
    async with AsyncExitStack() as stack:
        opened = {url: await stack.enter_async_context(services_on(url)) for url in (much, future, little)}

        async def row(what: str, bar: float, one: Side, other: Side) -> None:
            sides = [(opened[url], job_type, finds) for url, job_type, finds in (one, other)]
            with_it, without = await compare(sides, count)
            cells = [what, f"{count:,}", f"{median(with_it):.2f}", f"{median(without):.2f}"]
            section.add(cells, median(with_it) / median(without), at_most(bar))
            say(f"  {what}: p50 {median(with_it):.2f} ms over {median(without):.2f} ms")

        empty: Side = (little, "none", False)
        await row(f"an empty claim, {million:,} of another type queued", 2, (much, "none", False), empty)
        await row(f"an empty claim, {million:,} of its type not yet due", 2, (future, "own", False), empty)
        for url in (much, future, little):
            await fill(url, "own", few)
        own: Side = (little, "own", True)
        await row(f"a claim, {million:,} of another type in front", 2, (much, "own", True), own)
        await row(f"a claim, {million:,} of its type not yet due in front", 2, (future, "own", True), own)
        await row(f"a claim, {million:,} queued against {few:,}", 1.3, (much, "other", True), own)


async def measure_churn(url: str, options: Options, section: Section) -> None:
    """The rows about churn."""
    lone, total = options.of(1_000, 50), options.of(200_000, 100 * CHURNERS)
    async with services_on(url) as services:
        await cycles(services, lone // 5)
        before = await cycles(services, lone)
        begun = time.monotonic()
        await asyncio.gather(*(churn(services, total // CHURNERS) for _ in range(CHURNERS)))
        say(f"  {total} cycles in {time.monotonic() - begun:.0f} s")
        after = await cycles(services, lone)
    section.add(
        [
            f"a claim, after {total:,} cycles of churn",
            f"{lone:,}",
            f"{median(after):.2f}",
            f"{median(before):.2f}",
        ],
        median(after) / median(before),
        at_most(1.5),
    )
    used = await sizes(url)
    await compact(url)
    least = await sizes(url)
    for part, name in (("table", "table"), ("indexes", "indexes, all")):
        figure = used[part] / least[part]
        section.add([f"size after churn over a compact one: {name}", "", "", ""], figure, None)
    section.notes.append(
        "After the churn the table of jobs has {table} KiB and its indexes {indexes} KiB, of which the one that claims"
        " walk has {ready} KiB; written anew they have {0} and {1} KiB.".format(
            least["table"] // 1024,
            least["indexes"] // 1024,
            **{name: size // 1024 for name, size in used.items()},
        )
    )


def run(options: Options, databases: Databases) -> Section:
    """Measure."""
    logs_to_stderr()
    million = options.of(1_000_000, 20_000)
    looks = options.of(300, 20)
    section = Section(
        "Growth",
        "On PostgreSQL, filled by SQL, then vacuumed and analysed as autovacuum would. Claims by one caller of the core"
        " in process, in turns with those that they are compared with; p50 in ms.",
        ["what", "times", "with, p50 ms", "without, p50 ms"],
    )
    with ExitStack() as stack:
        much, future, little = (stack.enter_context(migrated(databases)) for _ in range(3))
        uvloop.run(measure_claims(much, future, little, options, section))
        with start_server(much) as server:
            found = uvloop.run(status(server.url, looks))
        say(f"  status: p50 {median(found):.1f} ms, p99 {percentile(found, 0.99):.1f} ms")
        section.add(
            [
                f"status at {million:,} queued and {5 * million:,} finished, ten looks a second: p99",
                f"{looks:,}",
                f"{median(found):.2f}",
                "",
            ],
            percentile(found, 0.99),
            at_most(15, "ms"),
        )
    with migrated(databases) as url:
        uvloop.run(measure_churn(url, options, section))
    return section


if __name__ == "__main__":
    main(run, __doc__)
