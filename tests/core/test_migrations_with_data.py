"""Migrations keep what is there: a database of an earlier version, with data, goes on where it was."""

import subprocess
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Column, Connection, MetaData, Table, func, insert, inspect, select

from holdfast_core.callers import DEFAULT_USER_ID, LOCAL_OPERATOR
from holdfast_core.db import migrations, tables
from holdfast_core.db.tables import artifacts, control_events, idempotency_keys, job_events, jobs, workers
from holdfast_core.settings import load_settings
from holdfast_core.store.lanes import add_lanes, lane_key
from support.core import audit, claim, claimed, complete, pause, resume, sql
from support.postgres import Template
from support.stores import core

pytestmark = pytest.mark.anyio

BEGAN = datetime(2026, 2, 20, 1, 55, tzinfo=UTC)
FAR = datetime(2099, 1, 1, tzinfo=UTC)
OLD_REVISIONS = sorted(migrations._known() - {migrations.head()})
HELD = {
    "claimed_by": "w",
    "claim_worker": "w",
    "claim_token_hash": "0" * 64,
    "claim_number": 1,
    "started_at": BEGAN,
}
JOBS: list[dict[str, Any]] = [
    {"type": "a", "required_capabilities": ["gpu", "web"]},
    {"type": "b", "priority": 5},
    {"type": "a"},
    {"type": "later", "next_attempt_at": FAR},
    {"type": "a", "status": "running", "lease_expires_at": FAR, "phase": "running", **HELD},
    {"type": "done", "status": "succeeded", "finished_at": BEGAN, "claim_outcome": "complete", **HELD},
]
RUNNING, DONE = UUID(int=5), UUID(int=6)
#: What else stands in a database: the rows of each table that a version has.
OTHERS: dict[Table, list[dict[str, Any]]] = {
    control_events: [
        {
            "id": UUID(int=number),
            "control": "worker_pause",
            "action": action,
            "outcome": "changed",
            "mode": "drain",
            "reason": "an upgrade",
            "actor_user_id": DEFAULT_USER_ID,
            "actor": "local operator",
            "version": number,
            "force_resume": False,
            "created_at": BEGAN + timedelta(seconds=number),
        }
        for number, action in ((2, "pause"), (3, "resume"))
    ],
    workers: [
        {
            "id": "w",
            "capabilities": ["gpu"],
            "transport": "rest",
            "auto_enabled": True,
            "interval_seconds": 10.0,
            "first_seen_at": BEGAN,
            "last_seen_at": BEGAN,
        }
    ],
    job_events: [
        {"job_id": DONE, "sequence": 1, "level": "info", "message": "it is done", "created_at": BEGAN}
    ],
    artifacts: [
        {
            "id": UUID(int=1),
            "job_id": DONE,
            "name": "report.txt",
            "content_type": "text/plain",
            "size": 6,
            "digest": "sha256:" + "0" * 64,
            "worker_id": "w",
            "created_at": BEGAN,
            "content": b"report",
        }
    ],
    # Of now: an old one is forgotten by the services that look at what is there.
    idempotency_keys: [{"key": "0" * 64, "body": "0" * 64, "version": 3, "created_at": datetime.now(UTC)}],
}
MIGRATE = """
import sys
from holdfast_core.db.migrations import migrate
from holdfast_core.settings import load_settings
print(migrate(load_settings(database_url=sys.argv[1])))
"""


@dataclass(frozen=True)
class Old:
    """A database at an earlier revision, and how many rows each table that has some has."""

    url: str
    counts: dict[str, int]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """A database with nothing in it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/old/holdfast.db"
        return
    empty = Template(request.getfixturevalue("postgres_url"))
    empty.create()
    try:
        yield empty.url
    finally:
        empty.drop()


def old_database(url: str, revision: str) -> Old:
    """Bring an empty database to a revision, and put in what its tables can hold."""
    counts: dict[str, int] = {}

    def work(connection: Connection, lock: Callable[[], None]) -> None:
        lock()
        migrations._upgrade_to(connection, revision)
        fill(connection)
        found = counted(connection, inspect(connection).get_table_names())
        counts.update({name: count for name, count in found.items() if count})

    with ThreadPoolExecutor(1) as pool:  # on PostgreSQL it starts a loop of its own
        pool.submit(migrations._with_connection, load_settings(database_url=url), work).result()
    return Old(url, counts)


def counted(connection: Connection, names: list[str]) -> dict[str, int]:
    return {
        name: connection.execute(select(func.count()).select_from(tables.metadata.tables[name])).scalar_one()
        for name in names
        if name in tables.metadata.tables
    }


def fill(connection: Connection) -> None:
    there = inspect(connection)
    has_lanes = there.has_table("agent_job_lanes")
    for number, job in enumerate(JOBS):
        at = BEGAN + timedelta(seconds=number)
        row = {
            "id": UUID(int=number + 1),
            "status": "queued",
            "priority": 0,
            "payload": {"n": number},
            "required_capabilities": [],
            "attempt": 1,
            "max_attempts": 3,
            "created_by_user_id": DEFAULT_USER_ID,
            "created_at": at,
            "updated_at": at,
            **job,
        }
        if has_lanes:
            key = lane_key(row["type"], row["required_capabilities"])
            kinds = {key: (row["type"], row["required_capabilities"])}
            row |= {"lane": add_lanes(connection, kinds)[key], "ready": "next_attempt_at" not in row}
        connection.execute(insert(as_it_is(jobs, connection)).values(row))
    for table, rows in OTHERS.items():
        if there.has_table(table.name):
            for row in rows:
                connection.execute(insert(as_it_is(table, connection)).values(row))
    connection.execute(tables.pause_state.update().values(version=2, updated_at=BEGAN))
    connection.execute(tables.pause_state.update().values(version=3, updated_at=BEGAN))


def as_it_is(table: Table, connection: Connection) -> Table:
    """A table of ours with the columns that this database has of it."""
    there = {column["name"] for column in inspect(connection).get_columns(table.name)}
    return Table(table.name, MetaData(), *(Column(c.name, c.type) for c in table.columns if c.name in there))


@pytest.mark.parametrize("revision", OLD_REVISIONS)
async def test_a_database_of_an_earlier_version_goes_on_where_it_was(
    empty_database_url: str, revision: str
) -> None:
    old = old_database(empty_database_url, revision)
    async with core(old.url) as (services, database):
        assert await database.read(lambda c: counted(c, list(old.counts))) == old.counts
        counts = (await services.pause.status(LOCAL_OPERATOR)).metrics
        assert (counts.queued, counts.scheduled, counts.running) == (3, 1, 1)
        first, second = await claimed(services), await claimed(services)
        assert [(job.type, job.payload) for job in (first, second)] == [("b", {"n": 1}), ("a", {"n": 2})]
        assert (await claim(services)).job is None, "one needs what this worker has not, one is for later"
        assert (await claimed(services, workerCapabilities=["web", "gpu"])).payload == {"n": 0}
        # The job that ran before still belongs to its worker.
        before = first.model_copy(update={"id": RUNNING, "claimed_by": "w", "lease_token": None})
        assert (await complete(services, before)).status == "succeeded"
        await sql(database, "UPDATE agent_jobs SET next_attempt_at = created_at WHERE NOT ready")
        await services.upkeep.promote()
        assert (await claimed(services)).type == "later"
        await pause(services)
        await resume(services)
        assert [(event.action, event.version) for event in await audit(services)] == [
            ("pause", 2),
            ("resume", 3),
            ("pause", 4),
            ("resume", 5),
        ]
        kept = select(artifacts.c.content)
        if "agent_job_artifacts" in old.counts:
            assert await database.read(lambda c: c.execute(kept).scalars().all()) == [b"report"]


def test_ten_processes_that_start_at_once_bring_it_up_to_date_once(empty_database_url: str) -> None:
    old = old_database(empty_database_url, OLD_REVISIONS[0])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, old.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    results = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [(out.strip(), code) for out, _, code in results] == [(migrations.head(), 0)] * 10, results
    left: dict[str, int] = {}
    with ThreadPoolExecutor(1) as pool:
        pool.submit(
            migrations._with_connection,
            load_settings(database_url=old.url),
            lambda connection, _: left.update(counted(connection, list(old.counts))),
        ).result()
    assert left == old.counts
