"""`make bench`: start everything, measure in interleaved rounds, write benchmarks/RESULTS.md.

Medians over the rounds, and ratios to a bare FastAPI no-op of the same round; see benchmarks/README.md.
"""

import argparse
import json
import os
import platform
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import anyio
import asyncpg
import growth
import httpx2
import memory
import pickup
import push
import startup
import throughput
from common import (
    HERE,
    PEERS,
    SERVER,
    Bar,
    Databases,
    Options,
    Section,
    at_least,
    at_most,
    cpu_seconds,
    fill,
    load,
    logs_to_stderr,
    migrated,
    open_databases,
    percentile,
    say,
    start_server,
)

from support.core import lane_of
from support.tokens import bearer, create_token_now

#: Connections of the load; of the rows that say so.
CONNECTIONS = 64
CROWD = 256
#: Claimers while pauses are timed, pauses on each database, and how many at a time.
CLAIMERS = 64
PAUSES = 500
PAUSES_AT_ONCE = 50
#: Jobs that are queued for each second of a slice, and for each second of claims between pauses: more than are taken.
FILLED_A_SECOND = 40_000
FILLED_AT_ONCE = 10_000
HEARTBEATING = 10_000
HEARTBEATING_QUICKLY = 200


@dataclass(frozen=True)
class Kind:
    """What is measured, in which kind of load (`load.py`), over how many connections if it is not as usual."""

    title: str
    load: str
    connections: int | None = None


NOOP = Kind("bare FastAPI no-op", "noop")
#: What rows about MCP are compared with.
SDK_NOOP = Kind("MCP SDK's no-op tool", "mcp_noop")
NOOP_CROWD = Kind(f"bare FastAPI no-op, {CROWD} connections", "noop", CROWD)
#: On each database, in this order within a round.
KINDS = (
    Kind("REST claim, running", "claim"),
    Kind(f"REST claim, running, {CROWD} connections", "claim", CROWD),
    Kind("REST claim, paused", "paused"),
    Kind("REST heartbeat", "heartbeat"),
    Kind("REST claim + complete (requests)", "whole"),
    Kind("MCP claim, running", "mcp_claim"),
    Kind("MCP claim, paused", "mcp_paused"),
)


#: By database and title; both are the issue's, for the usual size of a run.
BARS: dict[tuple[str, str], Bar] = {
    ("PostgreSQL", KINDS[0].title): at_least(1.0),
    ("PostgreSQL", KINDS[1].title): at_least(1.7),
    ("PostgreSQL", "REST claim, paused"): at_least(2.5),
    ("SQLite", "REST claim, paused"): at_least(2.5),
    ("PostgreSQL", "REST heartbeat"): at_least(1.0),
    ("SQLite", "REST claim + complete (requests)"): at_least(0.8),
    **{
        (name, f"MCP claim, {how}"): at_least(0.85)
        for name in ("SQLite", "PostgreSQL")
        for how in ("running", "paused")
    },
}


@dataclass
class Store:
    """One database with its server processes."""

    name: str
    url: str
    addresses: list[str]
    pids: list[int]
    #: The bearer tokens of the worker `bench`, and of an operator.
    worker: str
    operator: str
    jobs: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Row:
    """One thing that was measured, over the rounds."""

    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def slice_of(row: Row, url: str, pid: int, kind: Kind, store: Store, options: Options) -> float:
    """Measure one slice into its row; its rate."""
    before = cpu_seconds(pid)
    found = load(
        {
            "url": url,
            "kind": kind.load,
            "connections": kind.connections or CONNECTIONS,
            "seconds": options.seconds,
            "token": store.worker,
            "jobs": store.jobs,
        }
    )
    rate: float = found["count"] / found["seconds"]
    row.rates.append(rate)
    row.p50.append(found["p50"])
    row.p99.append(found["p99"])
    row.cpu.append((cpu_seconds(pid) - before) / found["count"] * 1e6)
    return rate


class Operator:
    """Pauses and resumes, over one connection that stays open."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx2.Client(base_url=url, timeout=30, headers=bearer(token))

    def toggle(self, action: str) -> tuple[float, dict[str, Any]]:
        """The milliseconds until the answer, and the answer."""
        body = {"action": action, "mode": "drain", "reason": "benchmark"}
        key = {"Idempotency-Key": str(uuid.uuid4())}
        begun = time.perf_counter()
        answer = self._client.post("/api/system/worker-pause", json=body, headers=key)
        took = (time.perf_counter() - begun) * 1000
        return took, answer.raise_for_status().json()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


@contextmanager
def paused(store: Store) -> Generator[None]:
    """The system is paused in the block."""
    with Operator(store.addresses[0], store.operator) as operator:
        operator.toggle("pause")
        yield
        operator.toggle("resume")


def prepare(store: Store, seconds: float) -> None:
    """Queue enough jobs that no claim comes back empty, behind the server's back because it is quicker."""
    count = int(FILLED_A_SECOND * seconds)
    if store.name == "PostgreSQL":
        anyio.run(_refill, store.url, count)
    else:
        anyio.run(_fill, store.url, count // FILLED_AT_ONCE + 1)


def hold(store: Store, count: int) -> None:
    """Let so many jobs run, for the heartbeats."""
    prepare(store, (count + 2 * CONNECTIONS) / FILLED_A_SECOND)
    orders = {"url": store.addresses[0], "kind": "hold", "connections": CONNECTIONS, "seconds": 60}
    # The last answer on each connection is not kept.
    store.jobs = load({**orders, "token": store.worker, "answers": count + CONNECTIONS})["jobs"][:count]
    if len(store.jobs) < count:
        raise SystemExit(f"only {len(store.jobs)} of {count} jobs could be claimed in time")


async def _refill(url: str, count: int) -> None:
    connection: Any = await asyncpg.connect(url)
    try:
        await connection.execute("DELETE FROM agent_jobs WHERE status = 'queued'")
    finally:
        await connection.close()
    await fill(url, "bench", count)


async def _fill(url: str, times: int) -> None:
    from sqlalchemy import Connection, delete, insert

    from holdfast_core.clock import SystemClock
    from holdfast_core.db import open_database
    from holdfast_core.db.tables import jobs
    from holdfast_core.ids import uuid7
    from holdfast_core.settings import load_settings

    now = SystemClock().now()
    row: dict[str, Any] = {
        "type": "bench",
        "status": "queued",
        "priority": 0,
        "payload": {"n": 1},
        "required_capabilities": [],
        "attempt": 1,
        "max_attempts": 3,
        "created_at": now,
        "updated_at": now,
    }

    def filling(connection: Connection) -> None:
        lane = lane_of(connection, row["type"])
        connection.execute(
            insert(jobs), [{**row, "lane": lane, "id": uuid7()} for _ in range(FILLED_AT_ONCE)]
        )

    def emptying(connection: Connection) -> None:
        connection.execute(delete(jobs).where(jobs.c.status == "queued"))

    database = await open_database(load_settings(database_url=url, database_pool_size=4))
    try:
        await database.write(emptying)
        for _ in range(times):
            await database.write(filling)
    finally:
        await database.close()


def pauses(store: Store, options: Options) -> list[float]:
    """How long a pause takes to be answered while claimers in processes of their own run against every server, in
    milliseconds. Checks afterwards that no job started between a pause and its resume, by the database's clock."""
    found: list[float] = []
    spans: list[tuple[datetime, datetime]] = []
    wanted = options.of(PAUSES, 10)
    while len(found) < wanted:  # in parts, so that none of them needs too long a queue
        some = min(PAUSES_AT_ONCE, wanted - len(found))
        prepare(store, some / 20)
        took, within = _pauses(store, some, options)
        found += took
        spans += within
        say(f"  {len(found)} of {wanted} pauses on {store.name}: p99 {percentile(found, 0.99):.0f} ms")
    late = anyio.run(_started_within, store.url, spans)
    if late:
        raise SystemExit(f"{late} jobs started between a pause and its resume")
    return found


def _pauses(
    store: Store, count: int, options: Options
) -> tuple[list[float], list[tuple[datetime, datetime]]]:
    share = max(1, options.of(CLAIMERS, 16) // len(store.addresses))
    order = {"kind": "either", "connections": share, "seconds": 600, "token": store.worker}
    orders = [{"url": url, **order} for url in store.addresses]
    loads = [
        subprocess.Popen(
            [sys.executable, str(HERE / "load.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for _ in orders
    ]
    try:
        for load_, its in zip(loads, orders, strict=True):
            assert load_.stdin is not None
            load_.stdin.write(json.dumps(its))
            load_.stdin.close()
        with ExitStack() as stack:
            operators = [stack.enter_context(Operator(url, store.operator)) for url in store.addresses]
            time.sleep(1)  # until the claimers are under way
            found: list[float] = []
            spans: list[tuple[datetime, datetime]] = []
            for number in range(count):
                operator = operators[number % len(operators)]
                took, answer = operator.toggle("pause")
                found.append(took)
                _, resumed = operator.toggle("resume")
                spans.append((_updated(answer), _updated(resumed)))
                time.sleep(random.uniform(0.05, 0.15))  # so that the next pause meets claims in flight
        if any(load_.poll() is not None for load_ in loads):
            raise SystemExit("a claimer got a wrong answer, or the queue ran dry")
    finally:
        for load_ in loads:
            load_.kill()
            load_.wait()
    return found, spans


def _updated(snapshot: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(snapshot["system"]["updatedAt"])


async def _started_within(url: str, spans: list[tuple[datetime, datetime]]) -> int:
    from sqlalchemy import func, select

    from holdfast_core.db import open_database
    from holdfast_core.db.tables import jobs
    from holdfast_core.settings import load_settings

    database = await open_database(load_settings(database_url=url, database_pool_size=4))
    try:
        count = 0
        for begin, end in spans:
            wanted = select(func.count()).where(jobs.c.started_at.between(begin, end))
            count += await database.read(lambda c, wanted=wanted: c.execute(wanted).scalar_one())
        return count
    finally:
        await database.close()


@contextmanager
def stores(databases: Databases, processes: dict[str, int]) -> Generator[list[Store]]:
    """Both databases, each with so many servers."""
    with ExitStack() as stack:
        urls = {"SQLite": databases.sqlite(), "PostgreSQL": stack.enter_context(migrated(databases))}
        found: list[Store] = []
        for name, url in urls.items():
            servers = [stack.enter_context(start_server(url, **SERVER)) for _ in range(processes[name])]
            found.append(
                Store(
                    name,
                    url,
                    [s.url for s in servers],
                    [s.process.pid for s in servers],
                    create_token_now(url, workerId="bench").token,
                    create_token_now(url, role="operator", user="bench").token,
                )
            )
        yield found


@contextmanager
def yardstick(script: str) -> Generator[tuple[str, int]]:
    """A no-op server: its address and process id."""
    process = subprocess.Popen([sys.executable, str(HERE / script)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        match = re.search(r"http://\S+", process.stdout.readline())
        assert match is not None, "the no-op server did not start"
        yield match[0], process.pid
    finally:
        process.terminate()
        process.communicate()


def rest(options: Options, databases: Databases) -> Section:
    """Requests of each kind against a no-op."""
    rows: dict[tuple[str, Kind], Row] = defaultdict(Row)
    with (
        yardstick("noop.py") as (noop_url, noop_pid),
        yardstick("mcp_noop.py") as (sdk_url, sdk_pid),
        stores(databases, {"SQLite": 1, "PostgreSQL": 1}) as found,
    ):
        for store in found:
            hold(store, options.of(HEARTBEATING, HEARTBEATING_QUICKLY))
            # What MCP needs is loaded for its first request, whatever that is.
            httpx2.post(f"{store.addresses[0]}/mcp", json={}, headers=bearer(store.worker), timeout=30)
        for number in range(options.rounds):
            for store in found:
                prepare(store, options.seconds)
                bases = {
                    kind.connections: slice_of(rows["", kind], noop_url, noop_pid, kind, store, options)
                    for kind in (NOOP, NOOP_CROWD)
                }
                sdk_base = slice_of(rows["", SDK_NOOP], sdk_url, sdk_pid, SDK_NOOP, store, options)
                url, pid = store.addresses[0], store.pids[0]
                for kind in KINDS:
                    row = rows[store.name, kind]
                    with paused(store) if kind.load.endswith("paused") else nullcontext():
                        rate = slice_of(row, url, pid, kind, store, options)
                    base = sdk_base if kind.load.startswith("mcp_") else bases[kind.connections]
                    row.ratios.append(rate / base)
                    say(
                        f"  round {number + 1}, {store.name}: {kind.title}: {rate:,.0f}/s, {row.ratios[-1]:.2f}x"
                    )
    section = Section(
        "Requests",
        f"{CONNECTIONS} connections unless a row says more, one server process. The figure is the ratio to the no-op of"
        " the same round (for MCP its SDK's), which is sent the same requests over as many connections. Each request's"
        " token is checked."
        f" Heartbeats are those of {options.of(HEARTBEATING, HEARTBEATING_QUICKLY):,} running jobs. CPU is the server"
        " process's own, without the database's.",
        ["database", "what", "requests/s", "spread", "p50 ms", "p99 ms", "server CPU µs"],
    )
    median = statistics.median
    for (name, kind), row in rows.items():
        section.add(
            [
                name,
                kind.title,
                f"{median(row.rates):,.0f}",
                f"{min(row.ratios):.2f}-{max(row.ratios):.2f}" if row.ratios else "",
                f"{median(row.p50):.1f}",
                f"{median(row.p99):.1f}",
                f"{median(row.cpu):,.0f}",
            ],
            median(row.ratios) if row.ratios else 1.0,
            BARS.get((name, kind.title)),
        )
    return section


def pausing(options: Options, databases: Databases) -> Section:
    """Pauses under claimers."""
    section = Section(
        "Pause to its answer",
        f"Over REST, with an event and an Idempotency-Key each, under {options.of(CLAIMERS, 16)} claimers that complete"
        " what they get, on all server processes: two on PostgreSQL, four on one SQLite file. No job started between a"
        " pause and its resume. The figure is the p99.",
        ["database", "pauses", "p50 ms", "worst ms"],
    )
    bars = {"SQLite": at_most(50, "ms"), "PostgreSQL": at_most(30, "ms")}
    with stores(databases, {"SQLite": 4, "PostgreSQL": 2}) as found:
        for store in found:
            took = pauses(store, options)
            section.add(
                [store.name, str(len(took)), f"{statistics.median(took):.1f}", f"{max(took):.1f}"],
                percentile(took, 0.99),
                bars[store.name],
            )
    return section


#: In the order in which they are measured and written.
PARTS: dict[str, Callable[[Options, Databases], Section]] = {
    "requests": rest,
    "jobs": throughput.run,
    "pickup": pickup.run,
    "pauses": pausing,
    "push": push.run,
    "growth": growth.run,
    "memory": memory.run,
    "startup": startup.run,
}
#: Those that need other people's queues.
BESIDE_PEERS = {"jobs", "pickup"}


def machine(options: Options) -> str:
    """What this ran on."""
    parts = [
        f"{os.cpu_count()} cores",
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    return ", ".join(parts) + f"; {options.rounds} rounds, slices of {options.seconds:g} s"


def main() -> None:
    """Read the options, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest size: does it all run?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a slice of load")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    given = parser.parse_args()
    logs_to_stderr()
    if BESIDE_PEERS & set(given.parts) and not PEERS.exists():
        raise SystemExit("The environment of the other queues is missing: make .bench/.peers")
    options = Options(given.quick, 1 if given.quick else given.rounds, 1.0 if given.quick else given.seconds)
    begun = time.monotonic()
    sections: list[Section] = []
    with open_databases() as databases:
        for part in given.parts:
            say(f"{part}, after {time.monotonic() - begun:.0f} s")
            sections.append(PARTS[part](options, databases))
    minutes = (time.monotonic() - begun) / 60
    page = [
        "# Results",
        "",
        f"Written by `make bench` in {minutes:.0f} minutes: {machine(options)}. Medians over interleaved rounds. The"
        " machine is shared and noisy: read the ratios and their spread, not the absolutes.",
        "",
        *(str(section) for section in sections),
    ]
    given.out.write_text("\n".join(page))
    say(f"written to {given.out}")


if __name__ == "__main__":
    main()
