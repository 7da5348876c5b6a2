"""Our core in process, without a server: the services on a database, as a worker in the same process would call them.

A program that is told one JSON object on stdin, `{what, url, jobs, batch?, gap?}`, and answers with one on stdout:

- `callers`: `batch` concurrent callers, each of which claims and completes through the services, one job a call, until
  `jobs` are done; calls that come together share a statement. `{count, seconds}`, as `peers.py` counts.
- `batches`: whole batches of `batch` jobs in one call each, by the statements into which the services put single
  calls: one task takes, one completes. There is no public verb for it, and the services' rules are passed by.
- `pickup`: `jobs` one by one, each enqueued some `gap` seconds after the one before; `{times}`, milliseconds from
  before each enqueue to the answer of a claim that waited for it.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import uvloop
from anyio import create_memory_object_stream, create_task_group

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Database, Lane, open_database
from holdfast_core.schemas import (
    ClaimRequest,
    CompleteRequest,
    EnqueueBatchRequest,
    EnqueueRequest,
    Job,
    parse_request,
)
from holdfast_core.services import Services
from holdfast_core.services.tokens import hash_token, mint_token
from holdfast_core.settings import load_settings
from holdfast_core.store.claim_batches import take_together
from holdfast_core.store.claims import Claim
from holdfast_core.store.lease_batches import Holder, complete_together
from holdfast_core.telemetry import configure_logs
from holdfast_server.compose import open_services

#: What each job carries, everywhere.
PAYLOAD = {"n": 1}
#: Connections, as the peers' pools have about as many.
POOL = 20


def between(times: list[float], first: int) -> dict[str, Any]:
    """The rate between the first `first` jobs and the last one."""
    return {"count": len(times) - first, "seconds": times[-1] - times[first - 1]}


async def enqueue_many(services: Services, count: int) -> None:
    """A queue that holds `count` jobs."""
    for start in range(0, count, 1_000):
        some = [{"type": "noop", "payload": PAYLOAD}] * min(1_000, count - start)
        request, _ = parse_request(EnqueueBatchRequest, {"jobs": some})
        await services.jobs.enqueue_batch(LOCAL_OPERATOR, request)


def claiming(worker: str, **body: Any) -> ClaimRequest:
    """A claim."""
    return parse_request(ClaimRequest, {"workerId": worker, "leaseSeconds": 3_600, **body})[0]


async def complete(services: Services, job: Job) -> None:
    """The end of a job that was claimed."""
    body = {"workerId": job.claimed_by, "leaseToken": job.lease_token}
    await services.outcomes.complete(LOCAL_OPERATOR, str(job.id), parse_request(CompleteRequest, body)[0])


async def callers(services: Services, orders: dict[str, Any]) -> dict[str, Any]:
    """Concurrent callers through the services."""
    times: list[float] = []

    async def caller(number: int) -> None:
        request = claiming(f"bench-{number}")
        while (job := (await services.claims.claim(LOCAL_OPERATOR, request)).job) is not None:
            times.append(time.perf_counter())
            await complete(services, job)

    await enqueue_many(services, orders["jobs"])
    await asyncio.gather(*(caller(number) for number in range(orders["batch"])))
    return between(times, orders["batch"])


async def batches(database: Database, orders: dict[str, Any]) -> dict[str, Any]:
    """Whole batches, by the statements themselves: one task takes, one completes what the other took before."""
    times: list[float] = []
    send, receive = create_memory_object_stream[list[Job]](1)

    async def take() -> None:
        async with send:
            while True:
                tokens = [mint_token() for _ in range(orders["batch"])]
                claims = [Claim("bench", 3_600, hash_token(token), None, ()) for token in tokens]
                ages = [0.0] * len(claims)
                work = partial(take_together, claims=claims, ages=ages, tokens=tokens)
                taken = await database.write(work, lane=Lane.GATED)
                jobs = [one.job for one in taken if one is not None and one.job is not None]
                if not jobs:
                    return
                await send.send(jobs)

    async def complete_all() -> None:
        async for jobs in receive:
            ends = [(Holder(job.id, "bench", hash_token(job.lease_token or "")), None) for job in jobs]
            done = await database.write(partial(complete_together, ends=ends), lane=Lane.SINGLE)
            assert len(done) == len(jobs), "nobody else holds them"
            times.extend([time.perf_counter()] * len(jobs))

    async with create_task_group() as tasks:
        tasks.start_soon(take)
        tasks.start_soon(complete_all)
    return between(times, orders["batch"])


async def pickup(services: Services, orders: dict[str, Any]) -> dict[str, Any]:
    """One job at a time, for a claimer that waits."""
    times: list[float] = []

    async def claimer() -> None:
        request = claiming("bench", waitSeconds=20)
        while len(times) < orders["jobs"]:
            job = (await services.claims.claim(LOCAL_OPERATOR, request)).job
            if job is not None:
                times.append((time.monotonic() - job.payload["at"]) * 1_000)
                await complete(services, job)

    async def producer() -> None:
        await asyncio.sleep(1)
        for number in range(orders["jobs"]):
            body = {"type": "noop", "payload": {"at": time.monotonic()}}
            await services.jobs.enqueue(LOCAL_OPERATOR, parse_request(EnqueueRequest, body)[0])
            await asyncio.sleep(orders["gap"] * random.uniform(0.5, 1.5))
            deadline = time.monotonic() + 30
            while len(times) <= number:
                if time.monotonic() > deadline:
                    raise SystemExit("a job was not picked up within 30 s")
                await asyncio.sleep(0.01)

    await asyncio.gather(claimer(), producer())
    return {"times": times}


SERVICES: dict[str, Callable[[Services, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "callers": callers,
    "pickup": pickup,
}


async def main(orders: dict[str, Any]) -> dict[str, Any]:
    """Do what is told."""
    settings = load_settings(database_url=orders["url"], database_pool_size=POOL)
    configure_logs(settings.log_format)
    async with open_services(settings) as services:
        if orders["what"] in SERVICES:
            return await SERVICES[orders["what"]](services, orders)
        await enqueue_many(services, orders["jobs"])
    database = await open_database(settings)
    try:
        return await batches(database, orders)
    finally:
        await database.close()


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(json.load(sys.stdin)))))
