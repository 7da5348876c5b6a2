"""`make bench`: start everything, measure in interleaved rounds, write benchmarks/RESULTS.md.

Medians over the rounds, and ratios to a bare FastAPI no-op of the same round; see benchmarks/README.md.
"""

import argparse
import json
import os
import platform
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import anyio
import httpx2

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from support.core import lane_of  # noqa: E402
from support.postgres import Template, open_cluster  # noqa: E402 (the tests' own cluster)
from support.servers import start_server  # noqa: E402
from support.tokens import bearer, create_token_now  # noqa: E402

#: Every request's token is checked. All come from one worker, so that what one may ask for is not bounded.
SERVER = {
    "HOLDFAST_AUTH_PROVIDER": "token",
    "HOLDFAST_RATE_LIMIT_PER_SECOND": "0",
    "HOLDFAST_MAX_CONNECTIONS_PER_CALLER": "0",
}
#: Connections of the rows that say so; all others have those of --connections.
CROWD = 256
#: Jobs that are queued for each second of a slice, and for each second of claims between pauses: more than are taken.
FILLED_A_SECOND = 40_000
FILLED_AT_ONCE = 10_000
HEARTBEATING = 1_000


@dataclass(frozen=True)
class Kind:
    """What is measured, in which kind of load (`load.py`), over how many connections if it is not as usual."""

    title: str
    load: str
    connections: int | None = None


NOOP = Kind("bare FastAPI no-op", "noop")
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


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; nan where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(orders: dict[str, Any]) -> dict[str, Any]:
    """One slice of load from a second process. Raises where an answer was wrong."""
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py")],
        input=json.dumps(orders),
        capture_output=True,
        text=True,
        timeout=orders["seconds"] * 5 + 60,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{orders['kind']} on {orders['url']} went wrong:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def slice_of(row: Row, url: str, pid: int, kind: Kind, store: Store, options: argparse.Namespace) -> float:
    """Measure one slice into its row; its rate."""
    before = cpu_seconds(pid)
    found = load(
        {
            "url": url,
            "kind": kind.load,
            "connections": kind.connections or options.connections,
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
        begun = time.perf_counter()
        answer = self._client.post("/api/system/worker-pause", json=body)
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
    anyio.run(_fill, store.url, int(FILLED_A_SECOND * seconds) // FILLED_AT_ONCE + 1)
    if not store.jobs:
        with httpx2.Client(base_url=store.addresses[0], timeout=30, headers=bearer(store.worker)) as client:
            for _ in range(HEARTBEATING):
                body = {"workerId": "bench", "leaseSeconds": 3600}
                job = client.post("/api/queue/jobs/claim", json=body).raise_for_status().json()["job"]
                store.jobs.append((job["id"], job["leaseToken"]))


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


def pauses(store: Store, options: argparse.Namespace) -> list[float]:
    """How long a pause takes to be answered while claimers in processes of their own run against every server, in
    milliseconds. Checks afterwards that no job started between a pause and its resume, by the database's clock."""
    share = max(1, options.claimers // len(store.addresses))
    order = {"kind": "either", "connections": share, "seconds": 600, "token": store.worker}
    orders = [{"url": url, **order} for url in store.addresses]
    loads = [
        subprocess.Popen([sys.executable, str(HERE / "load.py")], stdin=subprocess.PIPE, text=True)
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
            for number in range(options.pauses):
                operator = operators[number % len(operators)]
                took, answer = operator.toggle("pause")
                found.append(took)
                _, resumed = operator.toggle("resume")
                spans.append((_updated(answer), _updated(resumed)))
                time.sleep(0.1)  # so that the next pause meets claims in flight
        if any(load_.poll() is not None for load_ in loads):
            raise SystemExit("a claimer got a wrong answer, or the queue ran dry")
    finally:
        for load_ in loads:
            load_.kill()
            load_.wait()
    late = anyio.run(_started_within, store.url, spans)
    if late:
        raise SystemExit(f"{late} jobs started between a pause and its resume")
    return sorted(found)


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
def stores(options: argparse.Namespace) -> Generator[list[Store]]:
    """Both databases, each with its servers; PostgreSQL with two processes, SQLite with four on one file."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-bench-"))
        wanted = [("SQLite", f"sqlite:///{folder}/holdfast.db", 4)]
        if "postgresql" in options.only:
            template = Template(stack.enter_context(open_cluster()))
            template.create()
            stack.callback(template.drop)
            wanted.append(("PostgreSQL", template.url, 2))
        found: list[Store] = []
        for name, url, processes in wanted:
            if name.casefold() not in options.only:
                continue
            servers = [stack.enter_context(start_server(url, **SERVER)) for _ in range(processes)]
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
def yardstick() -> Generator[tuple[str, int]]:
    """The no-op server: its address and process id."""
    process = subprocess.Popen([sys.executable, str(HERE / "noop.py")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        match = re.search(r"http://\S+", process.stdout.readline())
        assert match is not None, "the no-op server did not start"
        yield match[0], process.pid
    finally:
        process.terminate()
        process.communicate()


def measure(options: argparse.Namespace) -> tuple[dict[tuple[str, Kind], Row], dict[str, list[float]]]:
    """All rounds, then the pauses."""
    rows: dict[tuple[str, Kind], Row] = defaultdict(Row)
    waits: dict[str, list[float]] = {}
    with yardstick() as (noop_url, noop_pid), stores(options) as found:
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            for store in found:
                prepare(store, options.seconds)
                bases = {
                    kind.connections: slice_of(rows["", kind], noop_url, noop_pid, kind, store, options)
                    for kind in (NOOP, NOOP_CROWD)
                }
                url, pid = store.addresses[0], store.pids[0]
                for kind in KINDS:
                    row = rows[store.name, kind]
                    with paused(store) if kind.load.endswith("paused") else nullcontext():
                        rate = slice_of(row, url, pid, kind, store, options)
                    row.ratios.append(rate / bases[kind.connections])
                    say(f"  {store.name}: {kind.title}: {rate:,.0f}/s, {row.ratios[-1]:.2f}x")
        for store in found:
            prepare(store, 2 + options.pauses / 20)
            say(f"{options.pauses} pauses on {store.name} under {options.claimers} claimers")
            waits[store.name] = pauses(store, options)
    return rows, waits


def machine(options: argparse.Namespace) -> str:
    """What this ran on."""
    parts = [
        f"{os.cpu_count()} cores",
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    return (
        ", ".join(parts)
        + f"; {options.rounds} rounds of {options.seconds:g} s, {options.connections} connections"
    )


def report(
    rows: dict[tuple[str, Kind], Row], waits: dict[str, list[float]], options: argparse.Namespace
) -> str:
    """The results as a page."""

    def line(name: str, title: str, row: Row) -> str:
        ratio = f"{statistics.median(row.ratios):.2f}" if row.ratios else "1"
        spread = f"{min(row.ratios):.2f}-{max(row.ratios):.2f}" if row.ratios else ""
        median = statistics.median
        return (
            f"| {name} | {title} | {median(row.rates):,.0f} | {ratio} | {spread} | {median(row.p50):.1f} |"
            f" {median(row.p99):.1f} | {median(row.cpu):,.0f} |"
        )

    body = [line(name, kind.title, row) for (name, kind), row in rows.items()]
    toggles = [
        f"| {name} | {len(found)} | {statistics.median(found):.1f} | {found[int(len(found) * 0.99)]:.1f} |"
        f" {found[-1]:.1f} |"
        for name, found in waits.items()
    ]
    return "\n".join(
        [
            "# Results",
            "",
            f"Written by `make bench`: {machine(options)}. Medians over interleaved rounds, one server process; the",
            "ratio is to the no-op of the same round, which is sent the same requests over as many connections. Each",
            "request's token is checked. The machine is shared and noisy: read the ratios, and their spread, not the",
            "absolutes. CPU is the server process's own, without the database's.",
            "",
            "| database | what | requests/s | ratio | spread | p50 ms | p99 ms | server CPU µs |",
            "|---|---|---|---|---|---|---|---|",
            *body,
            "",
            f"Pause to its answer, over REST, under {options.claimers} claimers on all processes (PostgreSQL 2, SQLite",
            "4 on one file):",
            "",
            "| database | pauses | p50 ms | p99 ms | worst ms |",
            "|---|---|---|---|---|",
            *toggles,
            "",
        ]
    )


def main() -> None:
    """Read the options, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it all run?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a slice")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--claimers", type=int, default=64, help="claimers while pauses are timed")
    parser.add_argument("--pauses", type=int, default=100)
    parser.add_argument(
        "--only", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"]
    )
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.pauses, options.claimers = 1, 1.0, 10, 16
    rows, waits = measure(options)
    options.out.write_text(report(rows, waits, options))
    say(f"written to {options.out}")


if __name__ == "__main__":
    main()
