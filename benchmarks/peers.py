"""Other queues for Python on PostgreSQL, in process: no-op jobs run by their own workers, as their guides set them up.

A program of the benchmark's own environment (`make .bench/.peers`; it imports nothing of ours). It is told one JSON
object on stdin, `{what, peer, url, jobs, batch?, managers?, gap?}`, and answers with one on stdout:

- `throughput`: a queue filled with `jobs` is worked off; `{count, seconds}` between the first job and the last one,
  less the first batch, so that neither start nor end of the worker counts.
- `pickup` (PGQueuer only): `jobs` one by one, each enqueued some `gap` seconds after the one before, over another
  connection; `{times}`, milliseconds from before each enqueue to the start of its handler.

Settings. Both: uvloop, their durable defaults. PGQueuer: its recommended autovacuum settings, a connection of its own
for the queue manager, asyncpg. Procrastinate: asynchronous tasks at concurrency 30, as its guide has it, over a pool
of psycopg's C implementation.
"""

import asyncio
import json
import logging
import random
import sys
import time
from typing import Any

import uvloop

#: What each job carries, everywhere.
PAYLOAD = {"n": 1}
CONCURRENCY = 30
POOL = 20


def between(times: list[float], first: int) -> dict[str, Any]:
    """The rate between the end of the first `first` jobs and the last one."""
    return {"count": len(times) - first, "seconds": times[-1] - times[first - 1]}


async def pgqueuer(orders: dict[str, Any]) -> dict[str, Any]:
    """PGQueuer."""
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries
    from pgqueuer.types import QueueExecutionMode

    url, jobs, batch = orders["url"], orders["jobs"], orders.get("batch", 10)
    connections: list[Any] = [await asyncpg.connect(url)]
    producer = Queries(AsyncpgDriver(connections[0]))
    if not await producer.has_table("pgqueuer"):
        await producer.install()
        await producer.optimize_autovacuum()
    await producer.clear_queue()
    times: list[float] = []
    managers: list[Any] = []

    async def handle(job: Any) -> None:
        times.append(time.perf_counter() if orders["what"] == "throughput" else since(job.payload))

    for _ in range(orders.get("managers", 1)):
        connections.append(await asyncpg.connect(url))
        managers.append(PgQueuer(AsyncpgDriver(connections[-1])))
        managers[-1].entrypoint("noop")(handle)
    try:
        if orders["what"] == "throughput":
            payload = json.dumps(PAYLOAD).encode()
            for start in range(0, jobs, 1_000):
                some = min(1_000, jobs - start)
                await producer.enqueue(["noop"] * some, [payload] * some, [0] * some)
            mode = QueueExecutionMode.drain
            await asyncio.gather(*(one.run(batch_size=batch, mode=mode) for one in managers))
            return between(times, batch)
        running = asyncio.create_task(managers[0].run(batch_size=batch))
        await one_by_one(orders, times, lambda at: producer.enqueue("noop", at, 0))
        managers[0].shutdown.set()
        await running
        return {"times": times}
    finally:
        for connection in connections:
            await connection.close()


async def procrastinate(orders: dict[str, Any]) -> dict[str, Any]:
    """Procrastinate."""
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=orders["url"], min_size=4, max_size=POOL))
    times: list[float] = []

    async def handle(n: int) -> None:
        times.append(time.perf_counter())

    task = app.task(name="noop", queue="noop")(handle)
    async with app.open_async():
        found = await app.connector.execute_query_one_async(
            "SELECT to_regclass('procrastinate_jobs') AS jobs"
        )
        if found["jobs"] is None:
            await app.schema_manager.apply_schema_async()
        await task.batch_defer_async(*[PAYLOAD] * orders["jobs"])
        await app.run_worker_async(
            queues=["noop"], concurrency=CONCURRENCY, install_signal_handlers=False, wait=False
        )
    return between(times, CONCURRENCY)


def since(begun: bytes) -> float:
    """Milliseconds since what a job carries."""
    return (time.monotonic() - float(begun)) * 1_000


async def one_by_one(orders: dict[str, Any], times: list[float], enqueue: Any) -> None:
    """Enqueue jobs that carry the time, each into a queue that is idle, and wait for the last."""
    await asyncio.sleep(1)  # until the worker listens
    for number in range(orders["jobs"]):
        await enqueue(repr(time.monotonic()).encode())
        await asyncio.sleep(orders["gap"] * random.uniform(0.5, 1.5))
        deadline = time.monotonic() + 30
        while len(times) <= number:
            if time.monotonic() > deadline:
                raise SystemExit("a job was not picked up within 30 s")
            await asyncio.sleep(0.01)


PEERS = {peer.__name__: peer for peer in (pgqueuer, procrastinate)}

if __name__ == "__main__":
    logging.disable(logging.INFO)
    told = json.load(sys.stdin)
    print(json.dumps(uvloop.run(PEERS[told["peer"]](told))))
