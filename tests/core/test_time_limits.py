"""Time limits of a pause: what the row says holds until a process ends it, by the database's clock."""

from datetime import timedelta
from typing import Any

import anyio
import pytest

from holdfast_core.callers import LOCAL_OPERATOR as CALLER
from holdfast_core.errors import InvalidRequest
from holdfast_core.schemas import WorkerPauseRequest, parse_request
from holdfast_core.services.pause import PauseService
from support.core import (
    MovableClock,
    audit,
    claim,
    claimed,
    enqueue,
    move_limit,
    pause,
    resume,
    until,
)
from support.stores import core

pytestmark = pytest.mark.anyio


async def test_a_pause_may_say_when_it_ends_and_the_system_and_the_log_show_it(database_url: str) -> None:
    async with core(database_url) as (services, _):
        for body, seconds in (
            ({"resumeAfterSeconds": 60}, 60),
            ({"resumeAfterSeconds": 604_800}, 604_800),
        ):
            system = (await pause(services, **body)).system
            assert system.resume_at is not None
            assert system.resume_at - system.updated_at == pytest.approx(timedelta(seconds=seconds), abs=TICK)
        at = (system.updated_at + timedelta(hours=3)).isoformat()
        system = (await pause(services, resumeAt=at)).system
        assert (system.resume_at, system.version) == (system.resume_at, 4)
        assert system.resume_at is not None
        assert system.resume_at.isoformat() == at
        assert [event.resume_at is not None for event in await audit(services)] == [True] * 3
        assert (await resume(services)).system.resume_at is None


TICK = timedelta(seconds=1)


@pytest.mark.parametrize("seconds", [-3600, 0, 58, 604_801])
async def test_a_time_out_of_bounds_is_refused_by_name_and_leaves_no_trace(
    database_url: str, seconds: int
) -> None:
    async with core(database_url) as (services, _):
        now = (await services.pause.status(CALLER)).metrics.measured_at
        with pytest.raises(InvalidRequest) as caught:
            await pause(services, resumeAt=(now + timedelta(seconds=seconds)).isoformat())
        assert [error.field for error in caught.value.errors] == ["resumeAt"]
        assert await audit(services) == []
        assert not (await services.pause.status(CALLER)).system.workers_paused


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"resumeAfterSeconds": 59}, "resumeAfterSeconds"),
        ({"resumeAfterSeconds": 604_801}, "resumeAfterSeconds"),
        ({"resumeAfterSeconds": 60.5}, "resumeAfterSeconds"),
        ({"resumeAfterSeconds": 60, "resumeAt": "2099-01-01T00:00:00Z"}, "resumeAt"),
        ({"resumeAt": "in an hour"}, "resumeAt"),
        ({"resumeAt": "2099-01-01T00:00:00"}, "resumeAt"),
        ({"action": "resume", "resumeAfterSeconds": 60}, "resumeAfterSeconds"),
        ({"action": "resume", "resumeAt": "2099-01-01T00:00:00Z"}, "resumeAt"),
    ],
)
def test_a_time_limit_belongs_to_a_pause_once_and_within_its_bounds(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(WorkerPauseRequest, {"action": "pause", "mode": "drain", "reason": "r", **body})
    assert [error.field for error in caught.value.errors] == [field]


async def test_a_pause_without_a_limit_clears_one_that_was_set_and_that_is_a_change(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        assert (await pause(services, resumeAfterSeconds=600)).system.version == 2
        cleared = (await pause(services)).system
        assert (cleared.version, cleared.resume_at) == (3, None)
        assert (await pause(services)).system.version == 3
        assert [event.outcome for event in await audit(services)] == ["changed", "changed", "unchanged"]


async def test_at_its_limit_a_pause_ends_by_itself_though_jobs_still_run(database_url: str) -> None:
    async with core(database_url, require_force_resume=True) as (services, database):
        await enqueue(services)
        job = await claimed(services)
        await enqueue(services)
        await pause(services, resumeAfterSeconds=60)
        await move_limit(database, 0.3)

        async def running() -> bool:
            return not (await services.pause.status(CALLER)).system.workers_paused

        await until(running, 5)
        snapshot = await services.pause.status(CALLER)
        assert (
            snapshot.system.version,
            snapshot.system.requested_by,
            snapshot.system.requested_by_user_id,
        ) == (
            3,
            "timer",
            None,
        )
        last = (await audit(services))[-1]
        assert (last.action, last.outcome, last.actor, last.running, last.mode, last.force_resume) == (
            "resume",
            "changed",
            "timer",
            1,
            "drain",
            False,
        )
        assert (await claimed(services, "w-2")).id != job.id


async def test_a_limit_that_has_passed_holds_until_a_process_ends_it(database_url: str) -> None:
    """The state is what the row says, never the clock."""
    async with core(database_url) as (services, database):
        await enqueue(services)
        await pause(services, resumeAfterSeconds=60)
    with pytest.MonkeyPatch.context() as patch:

        async def never(self: PauseService) -> None:
            await anyio.sleep_forever()

        patch.setattr(PauseService, "run_timer", never)
        async with core(database_url) as (services, database):
            await move_limit(database, -30)
            answer = await claim(services)
            assert (answer.job, answer.system.workers_paused) == (None, True)
            assert await services.pause.end_at_limit()
            assert not await services.pause.end_at_limit()
            await claimed(services)


async def test_of_many_processes_one_ends_the_pause(database_url: str) -> None:
    async with (
        core(database_url) as (one, database),
        core(database_url) as (two, _),
        core(database_url) as (three, _),
    ):
        await pause(one, resumeAfterSeconds=60)
        await move_limit(database, 0.2)

        async def running() -> bool:
            return not (await two.pause.status(CALLER)).system.workers_paused

        await until(running, 5)
        await anyio.lowlevel.checkpoint()
        for services in (one, two, three):
            assert not await services.pause.end_at_limit()
        assert [(event.action, event.version) for event in await audit(one)] == [("pause", 2), ("resume", 3)]


async def test_a_limit_that_was_moved_in_the_last_moment_is_kept(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await pause(services, resumeAfterSeconds=60)
        await pause(services, resumeAfterSeconds=3600)
        assert not await services.pause.end_at_limit()
        assert (await services.pause.status(CALLER)).system.workers_paused


async def test_on_sqlite_the_limit_goes_by_the_hosts_clock(sqlite_url: str) -> None:
    clock = MovableClock()
    async with core(sqlite_url, clock=clock) as (services, _):
        await pause(services, resumeAfterSeconds=600)
        clock.ahead = 599
        assert not await services.pause.end_at_limit()
        clock.ahead = 601

        async def running() -> bool:
            return not (await services.pause.status(CALLER)).system.workers_paused

        await until(running, 5)
