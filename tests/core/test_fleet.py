"""The fleet as operators see it: what state each worker is in, and who has seen the pause."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Database
from holdfast_core.db.tables import pause_state, workers
from holdfast_core.db.types import Now
from holdfast_core.schemas import ClaimRequest, PresenceRequest, WorkerView, parse_request
from holdfast_core.services import Services
from holdfast_core.states import WorkerState
from holdfast_core.store.metrics import look
from support.core import MovableClock, claim, claimed, complete, enqueue, expire, heartbeat, pause
from support.stores import core

pytestmark = pytest.mark.anyio


async def present(services: Services, worker: str, **body: Any) -> int:
    """A worker says that it is there; the version that it is told of."""
    request, _ = parse_request(PresenceRequest, {"workerId": worker, "autoEnabled": True, **body})
    return (await services.workers.presence(LOCAL_OPERATOR, request)).system.version


async def fleet(services: Services) -> dict[str, WorkerView]:
    return {worker.id: worker for worker in (await services.workers.list(LOCAL_OPERATOR)).items}


async def states(services: Services) -> dict[str, WorkerState]:
    return {worker.id: worker.state for worker in (await fleet(services)).values()}


async def silent_for(services: Services, database: Database, **seconds: float) -> None:
    """Let these workers have said their last word so long ago."""
    await services.presence.flush()
    for worker, ago in seconds.items():
        await database.write(
            lambda c, worker=worker, ago=ago: c.execute(
                update(workers).where(workers.c.id == worker).values(last_seen_at=Now(-ago))
            )
        )


async def acknowledged(services: Services) -> tuple[int, int]:
    """How many are connected, and how many of them have reported the current version."""
    await services.presence.flush()
    found = (await services.pause.status(LOCAL_OPERATOR)).workers
    return found.connected, found.acknowledged


async def test_each_worker_is_in_the_most_telling_of_the_states(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await present(services, "gone")
        await present(services, "missing")
        await present(services, "late")
        await silent_for(services, database, gone=610, missing=31, late=20)
        await present(services, "idle")
        await present(services, "paused", autoEnabled=False)
        for worker, phases in {
            "running": ["running"],
            "parking": ["parking", "running"],
            "half-parked": ["parked", "running"],
            "parked": ["parked", "parked"],
            "stale": ["running"],
        }.items():
            for phase in phases:
                await enqueue(services)
                job = await claimed(services, worker)
                await heartbeat(services, job, phase=phase)
                if worker == "stale":
                    await expire(database, job)
        assert await states(services) == {
            "gone": WorkerState.GONE,
            "missing": WorkerState.MISSING,
            "late": WorkerState.IDLE,
            "idle": WorkerState.IDLE,
            "paused": WorkerState.PAUSED,
            "running": WorkerState.RUNNING,
            "parking": WorkerState.PARKING,
            "half-parked": WorkerState.PARKING,
            "parked": WorkerState.PARKED,
            "stale": WorkerState.RUNNING,
        }


async def test_the_fleet_shows_what_each_worker_said_in_the_order_of_their_ids(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await present(services, "b", autoEnabled=False, workerCapabilities=["gpu", "eu"], observedVersion=1)
        await enqueue(services)
        await enqueue(services)
        request, _ignored = parse_request(
            ClaimRequest, {"workerId": "a", "leaseSeconds": 60, "workerCapabilities": ["cpu"]}
        )
        held = [
            (await services.claims.claim(LOCAL_OPERATOR, request, transport="mcp")).job
            for _number in range(2)
        ]
        found = await fleet(services)
        assert list(found) == ["a", "b"]
        a, b = found["a"], found["b"]
        assert (a.transport, a.auto_enabled, a.capabilities) == ("mcp", True, ["cpu"])
        assert sorted(a.jobs) == sorted(job.id for job in held if job)
        assert (b.transport, b.auto_enabled, b.capabilities, b.jobs, b.observed_version) == (
            "rest",
            False,
            ["eu", "gpu"],
            [],
            1,
        )
        assert abs(a.last_seen_at - b.last_seen_at) < timedelta(seconds=5)


async def test_an_outcome_does_not_change_the_transport_that_a_worker_is_shown_with(
    database_url: str,
) -> None:
    """The outcome comes through MCP as well: `OutcomeService` must not take it for REST."""
    async with core(database_url) as (services, _):
        await enqueue(services)
        request, _ignored = parse_request(ClaimRequest, {"workerId": "w", "leaseSeconds": 60})
        job = (await services.claims.claim(LOCAL_OPERATOR, request, transport="mcp")).job
        assert job is not None
        await complete(services, job)
        assert (await fleet(services))["w"].transport == "mcp"


async def test_a_worker_with_long_intervals_is_connected_for_three_of_them(database_url: str) -> None:
    clock = MovableClock()
    async with core(database_url, clock=clock) as (services, database):
        for beat in range(3):
            clock.ahead = beat * 1200
            await present(services, "w")
        await silent_for(services, database, w=3500)
        assert await states(services) == {"w": WorkerState.IDLE}
        await silent_for(services, database, w=3700)
        assert await states(services) == {"w": WorkerState.GONE}


async def test_a_word_between_two_heartbeats_of_a_long_lease_does_not_make_a_worker_impatient(
    database_url: str,
) -> None:
    clock = MovableClock()
    async with core(database_url, clock=clock) as (services, database):
        await enqueue(services)
        await enqueue(services)
        long, short = await claimed(services), await claimed(services)
        for beat in range(3):
            clock.ahead = beat * 1200
            await heartbeat(services, long, leaseSeconds=3600)
        clock.ahead += 5
        await complete(services, short)
        await silent_for(services, database, w=1000)  # its next heartbeat is not even due
        assert await states(services) == {"w": WorkerState.RUNNING}


async def test_a_worker_that_was_away_for_a_day_is_not_taken_for_one_that_speaks_once_a_day(
    database_url: str,
) -> None:
    """Away is no interval: else it would show as connected for days after it has died."""
    clock = MovableClock()
    async with core(database_url, clock=clock) as (services, database):
        for gaps in ([5] * 10, [86_400], [5] * 3):
            for gap in gaps:
                clock.ahead += gap
                await present(services, "w")
            await silent_for(services, database, w=900)
            assert await states(services) == {"w": WorkerState.GONE}


async def test_a_worker_counts_as_acknowledged_once_it_reports_the_version(database_url: str) -> None:
    async with core(database_url) as (services, _):
        for worker in ("a", "b"):
            await present(services, worker, observedVersion=1)
        assert await acknowledged(services) == (2, 2)
        await pause(services)
        assert await acknowledged(services) == (2, 0)
        await present(services, "a", observedVersion=1)
        assert await acknowledged(services) == (2, 0)
        await present(services, "a", observedVersion=2)
        assert await acknowledged(services) == (2, 1)
        await claim(services, "b", observedVersion=2)
        assert await acknowledged(services) == (2, 2)


async def test_a_client_that_sends_no_version_has_seen_that_of_the_answer_before_its_latest_request(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services, "holder")
        await claim(services, "idle")
        await present(services, "silent")
        assert await acknowledged(services) == (3, 0)
        speak = (
            lambda: heartbeat(services, job),
            lambda: claim(services, "idle"),
            lambda: present(services, "silent"),
        )
        for one in speak:
            await one()
        assert await acknowledged(services) == (3, 3)
        await pause(services)
        for one in speak:
            await one()  # only now are they told
        assert await acknowledged(services) == (3, 0)
        for done, one in enumerate(speak, 1):
            await one()
            assert await acknowledged(services) == (3, done)


async def test_what_another_process_knows_of_a_worker_does_not_take_its_acknowledgement_back(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), core(database_url) as (others, _):
        await present(others, "w", observedVersion=1)
        await pause(services)
        await present(services, "w", observedVersion=2)
        assert await acknowledged(services) == (1, 1)
        await present(others, "w")
        assert await acknowledged(others) == (1, 1)


async def named(database: Database, seconds_ago: float) -> list[str]:
    """Who is named so long after a change."""
    change = update(pause_state).values(version=pause_state.c.version + 1, updated_at=Now(-seconds_ago))
    await database.write(lambda c: c.execute(change))
    _, _, found = await database.read(look)
    return found.unacknowledged


async def test_the_workers_that_have_not_seen_a_change_are_named_from_15_seconds_on_at_most_20(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        await present(services, "seen", observedVersion=100)
        await present(services, "b-behind", observedVersion=1)
        await present(services, "a-silent")
        await services.presence.flush()
        assert await named(database, 14) == []
        assert await named(database, 15.5) == ["a-silent", "b-behind"]
        for number in range(30):
            await present(services, f"c-{number:02}")
        await services.presence.flush()
        assert await named(database, 3600) == ["a-silent", "b-behind"] + [f"c-{n:02}" for n in range(18)]


async def test_on_sqlite_the_snapshot_names_them_by_the_time_of_the_change(sqlite_url: str) -> None:
    clock = MovableClock()
    async with core(sqlite_url, clock=clock) as (services, _):
        await present(services, "behind", observedVersion=1)
        await present(services, "lost", observedVersion=1)
        await pause(services)
        clock.ahead += 14
        await services.presence.flush()
        assert (await services.pause.status(LOCAL_OPERATOR)).workers.unacknowledged == []
        clock.ahead += 5
        await present(services, "behind", observedVersion=1)
        await services.presence.flush()
        found = (await services.pause.status(LOCAL_OPERATOR)).workers
        assert found.unacknowledged == ["behind", "lost"]
        clock.ahead += 12
        found = (await services.pause.status(LOCAL_OPERATOR)).workers
        assert (found.connected, found.unacknowledged) == (1, ["behind"])
