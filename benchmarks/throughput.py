"""Whole jobs a second, beside other queues for Python on the same PostgreSQL: over REST, and our core in process.

    python benchmarks/throughput.py [--quick] [--rounds 3] [--seconds 3]

Needs the peers: `make .bench/.peers`. Each contender runs alone, in turns, in a process of its own on uvloop, on a
database of its own in the same server, with no-op jobs of the same payload that were queued before.
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from common import (
    PEERS,
    Bar,
    Databases,
    Options,
    Section,
    at_least,
    child,
    fill,
    load,
    main,
    median,
    migrated,
    say,
    serving,
)

from support.tokens import create_token_now

PROCRASTINATE = "Procrastinate, in process, concurrency 30"
PGQUEUER = "PGQueuer, in process, default batch of 10"
PGQUEUER_FIVE = "PGQueuer, in process, five managers with batches of 10"
PGQUEUER_BATCH = "PGQueuer, in process, batches of 100"
REST = "Holdfast over REST, claim + complete, 64 connections"
CALLERS = "Holdfast's core in process, 100 callers of the services, one job a call"
BATCHES = "Holdfast's core in process, batches of 100 straight through the store"

#: What each is compared with, and the bar.
RATIOS: tuple[tuple[str, str, Bar | None], ...] = (
    (REST, PROCRASTINATE, at_least(8)),
    (REST, PGQUEUER, None),
    (REST, PGQUEUER_FIVE, None),
    (BATCHES, PGQUEUER_BATCH, at_least(2.5)),
    (BATCHES, PROCRASTINATE, at_least(50)),
    (CALLERS, PGQUEUER_BATCH, None),
    (CALLERS, PROCRASTINATE, None),
)
#: Jobs that are queued for the load over REST, for each second of it: more than are taken.
FILLED_A_SECOND = 20_000
CONNECTIONS = 64
#: One takes about a minute.
MOST_ROUNDS = 3


@contextmanager
def contenders(options: Options, databases: Databases) -> Generator[dict[str, Callable[[], float]]]:
    """How to measure each once, in jobs a second."""
    with ExitStack() as stack:
        ours, core = (stack.enter_context(migrated(databases)) for _ in range(2))
        theirs = {peer: stack.enter_context(databases.postgresql()) for peer in ("pgqueuer", "procrastinate")}
        server = stack.enter_context(serving(ours))
        token = create_token_now(ours, workerId="bench").token

        def peer(name: str, jobs: int, **more: Any) -> float:
            orders = {"what": "throughput", "peer": name, "url": theirs[name], "jobs": jobs, **more}
            return _rate(child("peers.py", orders, python=PEERS))

        def in_process(what: str, jobs: int) -> float:
            return _rate(child("core.py", {"what": what, "url": core, "jobs": jobs, "batch": 100}))

        def over_rest() -> float:
            asyncio.run(fill(ours, "noop", int(FILLED_A_SECOND * options.seconds)))
            orders = {"url": server.url, "kind": "whole", "connections": CONNECTIONS, "token": token}
            return _rate(load({**orders, "seconds": options.seconds})) / 2  # two requests a job

        yield {
            PROCRASTINATE: lambda: peer("procrastinate", options.of(1_500, 200)),
            REST: over_rest,
            PGQUEUER: lambda: peer("pgqueuer", options.of(10_000, 1_000)),
            PGQUEUER_FIVE: lambda: peer("pgqueuer", options.of(15_000, 1_000), managers=5),
            BATCHES: lambda: in_process("batches", options.of(20_000, 2_000)),
            PGQUEUER_BATCH: lambda: peer("pgqueuer", options.of(30_000, 2_000), batch=100),
            CALLERS: lambda: in_process("callers", options.of(10_000, 1_000)),
        }


def _rate(found: dict[str, Any]) -> float:
    rate: float = found["count"] / found["seconds"]
    return rate


def run(options: Options, databases: Databases) -> Section:
    """Measure."""
    rates: dict[str, list[float]] = {}
    with contenders(options, databases) as found:
        for number in range(min(options.rounds, MOST_ROUNDS)):
            for name, measure in found.items():
                rate = measure()
                rates.setdefault(name, []).append(rate)
                say(f"  round {number + 1}: {name}: {rate:,.0f} jobs/s")
    section = Section(
        "Whole jobs, beside other queues",
        "No-op jobs, taken and completed, on the same PostgreSQL, all on uvloop; ratios within a round. A batch of"
        " ours goes straight through the store's statements, for which there is no public verb; callers go through"
        " the services one job at a time, and what comes together shares a statement. Five managers are what"
        " PGQueuer's own benchmark runs.",
        ["what", "jobs/s", "against", "jobs/s", "spread"],
    )
    for one, other, bar in RATIOS:
        ratios = [mine / theirs for mine, theirs in zip(rates[one], rates[other], strict=True)]
        section.add(
            [
                one,
                f"{median(rates[one]):,.0f}",
                other,
                f"{median(rates[other]):,.0f}",
                f"{min(ratios):.2f}-{max(ratios):.2f}",
            ],
            median(ratios),
            bar,
        )
    return section


if __name__ == "__main__":
    main(run, __doc__)
