"""How long a job waits in an idle queue: from before its enqueue to the start of its handler.

    python benchmarks/pickup.py [--quick] [--rounds 3]

Needs the peers: `make .bench/.peers`. In process: enqueued and handled in one process on uvloop. Over REST and over
push: enqueued over REST by one process, handled by a worker of ours (`holdfast.Worker`, one slot) in another, while a
server serves both. Jobs come one by one, after a random rest, so each meets a worker that waits.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

from common import (
    PEERS,
    Bar,
    Databases,
    Options,
    Section,
    at_most,
    child,
    logs_to_stderr,
    main,
    median,
    migrated,
    percentile,
    say,
    serving,
)

from support.tokens import bearer, create_token_now

PGQUEUER = "PGQueuer, in process"
CORE = "Holdfast's core in process, a claim that waits"
REST = "Holdfast over REST, a worker whose claim waits"
PUSH = "Holdfast over push, a worker with a session"

BARS: dict[str, Bar] = {CORE: at_most(1.0), REST: at_most(1.5), PUSH: at_most(1.5)}
GAP_SECONDS = 0.025
#: One takes about a minute.
MOST_ROUNDS = 3


async def work(url: str, token: str, transport: Any) -> None:
    """A worker that prints how long each job took to reach its handler."""
    from holdfast import Job, Worker

    logs_to_stderr()

    async def handle(job: Job) -> None:
        print((time.monotonic() - job.payload["at"]) * 1_000, flush=True)

    await Worker(handle, url=url, token=token, worker_id="bench", transport=transport, control=False).serve()


async def over(transport: str, url: str, tokens: tuple[str, str], jobs: int) -> list[float]:
    """The milliseconds of each job over a server: enqueued over one connection, each into an idle queue."""
    import httpx2

    worker, producer = tokens
    orders = json.dumps({"url": url, "token": worker, "transport": transport})
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--worker", orders, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    found: list[float] = []
    try:
        assert process.stdout is not None
        await asyncio.sleep(2)  # until it waits
        async with httpx2.AsyncClient(base_url=url, headers=bearer(producer), timeout=30) as http:
            for _ in range(jobs):
                body = {"type": "noop", "payload": {"at": time.monotonic()}}
                (await http.post("/api/queue/jobs", json=body)).raise_for_status()
                found.append(float(await asyncio.wait_for(process.stdout.readline(), 30)))
                await asyncio.sleep(GAP_SECONDS * random.uniform(0.5, 1.5))
        return found
    finally:
        process.kill()
        await process.wait()


def run(options: Options, databases: Databases) -> Section:
    """Measure."""
    jobs = options.of(200, 20)
    times: dict[str, list[list[float]]] = {}
    with ExitStack() as stack:
        ours, core = (stack.enter_context(migrated(databases)) for _ in range(2))
        theirs = stack.enter_context(databases.postgresql())
        server = stack.enter_context(serving(ours))
        tokens = (
            create_token_now(ours, workerId="bench").token,
            create_token_now(ours, role="producer", user="bench").token,
        )
        orders = {"what": "pickup", "jobs": jobs, "gap": GAP_SECONDS}

        def peer() -> list[float]:
            told = {**orders, "peer": "pgqueuer", "url": theirs}
            found: list[float] = child("peers.py", told, python=PEERS)["times"]
            return found

        for number in range(min(options.rounds, MOST_ROUNDS)):
            for name, measure in (
                (PGQUEUER, peer),
                (CORE, lambda: child("core.py", {**orders, "url": core})["times"]),
                (REST, lambda: asyncio.run(over("http", server.url, tokens, jobs))),
                (PUSH, lambda: asyncio.run(over("ws", server.url, tokens, jobs))),
            ):
                found = measure()
                times.setdefault(name, []).append(found)
                say(
                    f"  round {number + 1}: {name}: p50 {median(found):.1f} ms,"
                    f" p99 {percentile(found, 0.99):.1f} ms"
                )
    section = Section(
        "Pick-up",
        f"From before the enqueue to the start of the handler, {jobs} jobs a round, one by one. The figure is the p99"
        " over PGQueuer's of the same round, the median of the rounds.",
        ["what", "p50 ms", "p99 ms", "spread"],
    )
    base = [percentile(found, 0.99) for found in times[PGQUEUER]]
    for name in (PGQUEUER, *BARS):
        p99 = [percentile(found, 0.99) for found in times[name]]
        ratios = [mine / other for mine, other in zip(p99, base, strict=True)]
        section.add(
            [
                name,
                f"{median(median(found) for found in times[name]):.1f}",
                f"{median(p99):.1f}",
                f"{min(ratios):.2f}-{max(ratios):.2f}",
            ],
            median(ratios),
            BARS.get(name),
        )
    return section


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        import uvloop

        told = json.loads(sys.argv[2])
        uvloop.run(work(told["url"], told["token"], told["transport"]))
    else:
        main(run, __doc__)
