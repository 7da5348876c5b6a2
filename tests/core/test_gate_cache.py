"""The cache of the gate: it may say "paused", it never gives permission, and it is not fooled by late answers."""

from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from holdfast_core.gate import GateCache
from holdfast_core.schemas import System
from holdfast_core.states import PauseMode
from support.core import MovableClock, claim, enqueue, pause, sql
from support.stores import core


def system(version: int, *, paused: bool = True) -> System:
    now = datetime(2026, 2, 20, tzinfo=UTC)
    if not paused:
        return System(workers_paused=False, version=version, updated_at=now)
    return System(
        workers_paused=True,
        mode=PauseMode.DRAIN,
        reason="r",
        version=version,
        requested_at=now,
        updated_at=now,
    )


class Stopped(MovableClock):
    """A clock that only a test moves."""

    def monotonic(self) -> float:
        return self.ahead


def test_it_knows_nothing_before_its_first_look() -> None:
    cache = GateCache(Stopped())
    assert (cache.system, cache.paused()) == (None, None)


def test_it_says_paused_and_never_running() -> None:
    clock = Stopped()
    cache = GateCache(clock)
    assert cache.learn(system(2), asked_at=0)
    assert cache.paused() == system(2)
    clock.ahead = 1
    assert cache.learn(system(3, paused=False), asked_at=1)
    assert cache.paused() is None
    assert cache.system == system(3, paused=False)


def test_the_same_version_again_is_nothing_new() -> None:
    clock = Stopped()
    cache = GateCache(clock)
    cache.learn(system(2), asked_at=0)
    clock.ahead = 5
    with capture_logs() as lines:
        assert not cache.learn(system(2), asked_at=5)
    assert lines == []


@pytest.mark.parametrize("asked_at", [-1, 0, 7, 10])
def test_an_answer_that_was_overtaken_is_left_aside_without_an_alarm(asked_at: float) -> None:
    clock = Stopped()
    cache = GateCache(clock)
    clock.ahead = 10
    cache.learn(system(3, paused=False), asked_at=9)
    clock.ahead = 12
    with capture_logs() as lines:
        assert not cache.learn(system(2), asked_at=asked_at)
    assert cache.system == system(3, paused=False)
    assert lines == []


def test_a_version_that_fell_is_taken_in_with_an_alarm() -> None:
    clock = Stopped()
    cache = GateCache(clock)
    clock.ahead = 10
    cache.learn(system(4), asked_at=9)
    clock.ahead = 12
    with capture_logs() as lines:
        assert cache.learn(system(1, paused=False), asked_at=11)
    assert cache.paused() is None
    assert [
        (line["event"], line["log_level"], line["pause_version"], line["known_version"]) for line in lines
    ] == [("pause_version_fell", "error", 1, 4)]
    clock.ahead = 14
    assert not cache.learn(system(1, paused=False), asked_at=13), "one alarm a fall"


@pytest.mark.anyio
async def test_a_database_that_lost_an_answered_pause_is_noticed_and_its_word_counts(
    database_url: str,
) -> None:
    async with core(database_url) as (services, database):
        await enqueue(services)
        await pause(services)
        if database.dialect == "postgresql":
            await sql(database, "ALTER TABLE system_worker_pause_state DISABLE TRIGGER USER")
        else:
            await sql(database, "DROP TRIGGER system_worker_pause_state_version")
        assert (await claim(services)).job is None
        with capture_logs() as lines:
            await sql(
                database,
                "UPDATE system_worker_pause_state SET version = 1, paused = false, mode = NULL,"
                " reason = NULL, requested_at = NULL",
            )
            assert (await services.watch.refresh()).version == 1
        assert [line["log_level"] for line in lines if line["event"] == "pause_version_fell"] == ["error"]
        answer = await claim(services)
        assert answer.job is not None
        assert answer.system.version == 1
