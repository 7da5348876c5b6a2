"""Migrations keep what is there: a database of an earlier version, with data, goes on where it was."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Column, Connection, MetaData, Table, insert

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import migrations
from holdfast_core.db.tables import jobs
from holdfast_core.settings import load_settings
from support.core import claim, claimed, complete, sql
from support.postgres import Template
from support.stores import core

pytestmark = pytest.mark.anyio

BEGAN = datetime(2026, 2, 20, 1, 55, tzinfo=UTC)
FAR = datetime(2099, 1, 1, tzinfo=UTC)
#: What the first version had not.
NEW = {
    "asked_at",
    "enqueue_body",
    "enqueue_key",
    "heartbeat_at",
    "lane",
    "progressed_at",
    "ready",
    "request_id",
}
OLD_JOBS = Table(
    "agent_jobs", MetaData(), *(Column(c.name, c.type) for c in jobs.columns if c.name not in NEW)
)
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


@pytest.fixture(params=["sqlite", "postgresql"])
def old_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """A database of the first version, with a job of each kind in it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/old/holdfast.db"
        upgraded(url, "0001", fill)
        yield url
        return
    empty = Template(request.getfixturevalue("postgres_url"))
    empty.create()
    try:
        upgraded(empty.url, "0001", fill)
        yield empty.url
    finally:
        empty.drop()


def upgraded(url: str, revision: str, then: Callable[[Connection], None]) -> None:
    """Bring the schema to a revision and do something there, in one transaction."""

    def work(connection: Connection, lock: Callable[[], None]) -> None:
        lock()
        migrations._upgrade_to(connection, revision)
        then(connection)

    with ThreadPoolExecutor(1) as pool:  # on PostgreSQL it starts a loop of its own
        pool.submit(migrations._with_connection, load_settings(database_url=url), work).result()


def fill(connection: Connection) -> None:
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
            "created_at": at,
            "updated_at": at,
            **job,
        }
        connection.execute(insert(OLD_JOBS).values(row))


async def test_a_database_of_the_first_version_goes_on_where_it_was(old_database_url: str) -> None:
    async with core(old_database_url) as (services, database):
        counts = (await services.pause.status(LOCAL_OPERATOR)).metrics
        assert (counts.queued, counts.scheduled, counts.running) == (3, 1, 1)
        first, second = await claimed(services), await claimed(services)
        assert [(job.type, job.payload) for job in (first, second)] == [("b", {"n": 1}), ("a", {"n": 2})]
        assert (await claim(services)).job is None, "one needs what this worker has not, one is for later"
        assert (await claimed(services, workerCapabilities=["web", "gpu"])).payload == {"n": 0}
        # The job that ran before still belongs to its worker.
        before = first.model_copy(update={"id": UUID(int=5), "claimed_by": "w", "lease_token": None})
        assert (await complete(services, before)).status == "succeeded"
        await sql(database, "UPDATE agent_jobs SET next_attempt_at = created_at WHERE NOT ready")
        await services.upkeep.promote()
        assert (await claimed(services)).type == "later"
