"""The promise under fire: claimers in several processes against pauses at random moments."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import anyio
import asyncpg
import pytest
from anyio.to_thread import run_sync
from sqlalchemy import Connection, func, insert, select

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.clock import SystemClock
from holdfast_core.db import Database
from holdfast_core.db.postgres import plain_url
from holdfast_core.db.tables import jobs
from holdfast_core.errors import PauseNotConfirmed
from holdfast_core.ids import uuid7
from holdfast_core.schemas import Snapshot, WorkerPauseRequest, parse_request
from holdfast_core.services import Services
from holdfast_core.settings import load_settings
from holdfast_core.store.metrics import violations
from support.core import lane_of
from support.stores import core

pytestmark = pytest.mark.anyio

CLAIMERS_FILE = Path(__file__).parents[1] / "support" / "claimers.py"
PROCESSES = 4
CLAIMERS_EACH = 16
PAUSES = 100


class Claimers:
    """A child process of claimers, and what it says."""

    def __init__(self, url: str, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(CLAIMERS_FILE), url, str(CLAIMERS_EACH), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: Queue[str] = Queue()
        self._errors: list[str] = []
        for stream, take in (
            (self.process.stdout, self._lines.put),
            (self.process.stderr, self._errors.append),
        ):
            Thread(
                target=lambda stream=stream, take=take: [take(line) for line in stream], daemon=True
            ).start()

    def expect(self, line: str, seconds: float = 30) -> None:
        """Read until this line comes."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self._lines.get(timeout=max(0.01, deadline - time.monotonic())).strip() == line:
                    return
            except Empty:
                raise AssertionError(
                    f"no {line!r} within {seconds} s; stderr: {''.join(self._errors)}"
                ) from None


@contextmanager
def claimers(url: str, count: int, *flags: str) -> Iterator[list[Claimers]]:
    running = [Claimers(url, *flags) for _ in range(count)]
    try:
        for one in running:
            one.expect("ready")
        yield running
    finally:
        for one in running:
            one.process.kill()
            one.process.communicate()


async def toggle(services: Services, action: str, **more: Any) -> Snapshot:
    body = {"action": action, "reason": "race", **({"mode": "drain"} if action == "pause" else {}), **more}
    request, _ = parse_request(WorkerPauseRequest, body)
    return await services.pause.control(LOCAL_OPERATOR, request)


async def fill(database: Database, count: int) -> None:
    """Queue plain jobs in bulk."""
    now = SystemClock().now()

    def filling(connection: Connection) -> None:
        row = {
            "lane": lane_of(connection, "race"),
            "type": "race",
            "status": "queued",
            "priority": 0,
            "payload": {},
            "required_capabilities": [],
            "attempt": 1,
            "max_attempts": 1,
            "created_at": now,
            "updated_at": now,
        }
        connection.execute(insert(jobs), [{**row, "id": uuid7()} for _ in range(count)])

    await database.write(filling)


def claimed(connection: Connection) -> int:
    """How many claims are visible. Every job is claimed once at most here."""
    return connection.execute(select(func.count()).where(jobs.c.claim_number.is_not(None))).scalar_one()


def together(connection: Connection) -> float:
    """How many jobs a statement took, on average. On PostgreSQL a claim's number is that of its transaction."""
    numbers = func.count(jobs.c.claim_number.distinct())
    return claimed(connection) / max(1, connection.execute(select(numbers)).scalar_one())


async def race(url: str, *, pauses: int, without_gate: bool = False) -> tuple[int, int]:
    """Pause at random moments under fire. Returns (cycles with a late claim, cycles with claims between)."""
    late = busy = 0
    chance = random.Random(20261123)
    flags = ("--without-gate",) if without_gate else ()
    async with core(url) as (services, database):
        await fill(database, 80_000)  # more than are claimed between the pauses
        with claimers(url, PROCESSES, *flags) as running:
            before = 0
            for _ in range(pauses):
                await anyio.sleep(chance.uniform(0.002, 0.08))
                snapshot = await toggle(services, "pause")
                answered = await database.read(claimed)
                for one in running:
                    await run_sync(one.expect, f"quiet {snapshot.system.version}")
                settled = await database.read(claimed)
                broken = await database.read(violations)
                late += settled != answered or broken != 0
                busy += answered > before
                before = settled
                if without_gate and late:
                    break
                await toggle(services, "resume")
        if database.dialect == "postgresql":
            assert await database.read(together) > 2, "the claimers hardly shared statements"
    return late, busy


@pytest.mark.requirement("US1-1")
@pytest.mark.requirement("RS-01")
async def test_no_claim_commits_after_a_pause_is_answered(database_url: str) -> None:
    """With the door taken out of the statement, which leaves a plain sub-select on the pause row, this fails:
    the next test does just that."""
    late, busy = await race(database_url, pauses=PAUSES)
    assert late == 0
    assert busy > PAUSES // 2, "the claimers were hardly in flight: the race proved nothing"


async def test_the_race_is_lost_without_the_gate(postgres_database_url: str) -> None:
    late, _ = await race(postgres_database_url, pauses=PAUSES, without_gate=True)
    assert late > 0


async def test_the_gate_holds_where_the_default_isolation_is_repeatable_read(
    postgres_database_url: str,
) -> None:
    connection = await asyncpg.connect(plain_url(postgres_database_url))
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(
        f"ALTER ROLE CURRENT_USER IN DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'"
    )
    await connection.close()
    connection = await asyncpg.connect(plain_url(postgres_database_url))
    assert await connection.fetchval("SHOW transaction_isolation") == "repeatable read"
    await connection.close()
    late, busy = await race(postgres_database_url, pauses=PAUSES)
    assert late == 0
    assert busy > PAUSES // 2


async def test_a_claimer_that_stops_reading_its_answer_delays_a_pause_by_no_more_than_3_seconds(
    postgres_database_url: str,
) -> None:
    async with core(postgres_database_url) as (services, _), anyio.create_task_group() as tasks:
        frozen = await asyncpg.connect(plain_url(postgres_database_url))
        watching = await asyncpg.connect(plain_url(postgres_database_url))
        pid = frozen.get_server_pid()
        claim = await frozen.prepare(
            "SELECT repeat('x', 10000) FROM generate_series(1, 100000)"
            " WHERE NOT EXISTS (SELECT 1 FROM pause_gate FOR KEY SHARE)"
        )

        async def claim_without_reading() -> None:
            frozen._transport.pause_reading()
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await claim.fetch()

        tasks.start_soon(claim_without_reading)
        with anyio.fail_after(10):
            while (
                await watching.fetchval("SELECT wait_event FROM pg_stat_activity WHERE pid = $1", pid)
                != "ClientWrite"
            ):
                await anyio.sleep(0.01)
        begun = time.monotonic()
        snapshot = await toggle(services, "pause")
        took = time.monotonic() - begun
        assert snapshot.system.workers_paused
        assert took < 3
        frozen._transport.resume_reading()
        await watching.close()


HOLD_THE_DOOR = """
import asyncio, sys, asyncpg
async def main():
    connection = await asyncpg.connect(sys.argv[1])
    await connection.execute("BEGIN; SELECT 1 FROM pause_gate FOR KEY SHARE")
    print("held", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""

HOLD_THE_TURN = """
import sys, time
from pathlib import Path
from holdfast_core.db.locks import FileLock
FileLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def stopped_in_mid_claim(script: str, argument: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", script, argument], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_claimer_stopped_in_mid_claim_delays_a_pause_by_no_more_than_3_seconds(
    postgres_database_url: str,
) -> None:
    async with core(postgres_database_url) as (services, _):
        with stopped_in_mid_claim(HOLD_THE_DOOR, plain_url(postgres_database_url)):
            begun = time.monotonic()
            snapshot = await toggle(services, "pause")
            assert time.monotonic() - begun < 3
            assert snapshot.system.workers_paused


async def test_a_toggle_that_cannot_have_the_row_is_not_confirmed_within_5_seconds_and_writes_nothing(
    postgres_database_url: str,
) -> None:
    async with core(postgres_database_url) as (services, _):
        holding = await asyncpg.connect(plain_url(postgres_database_url))
        await holding.execute("BEGIN; SELECT 1 FROM system_worker_pause_state FOR UPDATE")
        begun = time.monotonic()
        with pytest.raises(PauseNotConfirmed, match="Nothing is promised"):
            await toggle(services, "pause")
        assert time.monotonic() - begun < 5
        await holding.close()
        snapshot = await toggle(services, "pause")
        assert snapshot.system.version == 2
        assert len(snapshot.audit.latest) == 1


async def test_on_sqlite_a_process_stopped_in_its_turn_is_named_within_3_seconds_and_nothing_is_promised(
    sqlite_url: str,
) -> None:
    """Nobody can take SQLite's lock from a stopped process, so the pause is not made, and says so."""
    async with core(sqlite_url) as (services, _):
        lock = f"{load_settings(database_url=sqlite_url).sqlite_path}.lock"
        with stopped_in_mid_claim(HOLD_THE_TURN, lock) as process:
            begun = time.monotonic()
            with pytest.raises(PauseNotConfirmed, match=str(process.pid)):
                await toggle(services, "pause")
            assert time.monotonic() - begun < 3.5
        snapshot = await toggle(services, "pause")
        assert snapshot.system.version == 2
