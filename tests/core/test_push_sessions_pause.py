"""Push sessions and the pause: what is told, in which order, and what becomes of offers (CONTRACT section 6)."""

import random
from typing import Any

import anyio
import pytest

from core.sessions import Peer, connected, of, opened
from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.errors import StoreUnavailable
from holdfast_core.schemas import Job, System, WaitQuery
from holdfast_core.schemas.sessions import (
    AcceptedFrame,
    CompleteAckFrame,
    HeartbeatAckFrame,
    OfferFrame,
    SystemFrame,
    WelcomeFrame,
)
from holdfast_core.services import Services, session_watch
from holdfast_core.states import JobStatus, PauseMode
from support.core import claim, complete, enqueue, get, pause, resume, until
from support.stores import core

pytestmark = pytest.mark.anyio


async def told(peer: Peer, version: int) -> System:
    """Wait until this version was pushed, and what it said."""
    while True:
        frame = await peer.hear(SystemFrame)
        if frame.system.version == version:
            return frame.system


def check_order(peer: Peer, *, first: int) -> None:
    """What holds for the frames of any session: every version once and in order, and each offer under the version that
    was told of last, which is a running one."""
    version, paused = first, False
    for frame in peer.frames:
        if isinstance(frame, WelcomeFrame):
            assert frame.system.version == first
            paused = frame.system.workers_paused
        elif isinstance(frame, SystemFrame):
            assert frame.system.version == version + 1
            version, paused = frame.system.version, frame.system.workers_paused
        elif isinstance(frame, OfferFrame):
            assert not paused, "an offer follows a paused system"
            assert not frame.system.workers_paused
            assert frame.system.version == version
        elif isinstance(frame, HeartbeatAckFrame):
            assert frame.system.version == version


async def back(services: Services, job: Job) -> None:
    async def queued() -> bool:
        return (await get(services, job)).status is JobStatus.QUEUED

    await until(queued)


async def test_each_version_is_pushed_once_and_in_order_with_all_that_it_says(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services) as peer:
        made = [(await pause(services, "drain", reason="one")).system]
        made.append((await pause(services, "quiesce", reason="two")).system)
        made.append((await resume(services)).system)
        assert [await told(peer, system.version) for system in made] == made
        assert peer.versions() == [2, 3, 4]
        check_order(peer, first=1)


async def test_versions_of_another_process_are_pushed_once_and_in_order_however_fast_they_come(
    database_url: str,
) -> None:
    async with (
        core(database_url) as (services, _),
        core(database_url) as (others, _),
        connected(services, "a") as one,
        connected(services, "b") as two,
    ):
        made = []
        for _round in range(6):
            made.append((await pause(others, "drain", reason="one")).system)
            made.append((await pause(others, "quiesce", reason="two")).system)
            made.append((await resume(others)).system)
        for peer in (one, two):
            assert [await told(peer, system.version) for system in made] == made
            check_order(peer, first=1)


async def test_versions_that_this_process_never_saw_are_told_from_the_audit_log(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        core(database_url) as (services, _),
        core(database_url) as (others, _),
        connected(services) as peer,
    ):
        with monkeypatch.context() as patched:  # this process hears nothing
            patched.setattr(services.watch, "learn", lambda *_, **__: None)
            made = [(await pause(others, "drain", reason="one", resumeAfterSeconds=600)).system]
            made.append((await pause(others, "quiesce", reason="two")).system)
            made.append((await resume(others)).system)
            made.append((await pause(others, "quiesce", reason="three")).system)
        assert [await told(peer, system.version) for system in made] == made
        check_order(peer, first=1)


async def test_a_gap_is_filled_also_where_the_store_fails_in_between(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        core(database_url) as (services, _),
        core(database_url) as (others, _),
        connected(services) as peer,
    ):
        reading = session_watch.versions_between
        tried: list[int] = []

        def at_first_away(*arguments: Any) -> Any:
            tried.append(1)
            if len(tried) < 3:
                raise StoreUnavailable("away")
            return reading(*arguments)

        monkeypatch.setattr(session_watch, "versions_between", at_first_away)
        with monkeypatch.context() as patched:
            patched.setattr(services.watch, "learn", lambda *_, **__: None)
            for _round in range(2):
                await pause(others)
                await resume(others)
        await told(peer, 5)
        check_order(peer, first=1)
        assert len(tried) == 3


async def test_a_pause_is_pushed_though_its_history_cannot_be_read(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_watch, "GAP_SECONDS", 0.1)
    async with core(database_url) as (services, _), core(database_url) as (others, _):

        def away(*_: object) -> None:
            raise StoreUnavailable("away")

        monkeypatch.setattr(session_watch, "versions_between", away)
        async with connected(services) as peer:
            with monkeypatch.context() as patched:
                patched.setattr(services.watch, "learn", lambda *_, **__: None)
                await resume_after_pause(others)
                await pause(others)
            assert (await told(peer, 4)).workers_paused


async def resume_after_pause(services: Services) -> None:
    await pause(services)
    await resume(services)


async def test_one_toggle_costs_a_hundred_sessions_no_look_at_the_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core(database_url) as (services, database), anyio.create_task_group() as tasks:
        peers: list[Peer] = []
        enough, over = anyio.Event(), anyio.Event()

        async def one(number: int) -> None:
            async with connected(services, f"w-{number}") as peer:
                peers.append(peer)
                if len(peers) == 100:
                    enough.set()
                await over.wait()

        for number in range(100):
            tasks.start_soon(one, number)
        await enough.wait()
        await anyio.sleep(0.2)  # what the beginnings have announced is over
        looks: list[int] = []
        reading = type(database).read

        async def counted(self: Any, work: Any, **how: Any) -> Any:
            looks.append(1)
            return await reading(self, work, **how)

        monkeypatch.setattr(type(database), "read", counted)
        await pause(services)
        for peer in peers:
            await told(peer, 2)
        assert len(looks) < 20, "the sessions look for themselves"
        over.set()


async def test_a_session_that_begins_while_paused_is_offered_nothing_until_the_resume(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        await pause(services)
        job = await enqueue(services)
        async with connected(services, ready=1) as peer:
            await peer.ask("heartbeat", HeartbeatAckFrame)
            assert peer.offers() == []
            await resume(services)
            assert (await peer.offer()).job.id == job.id
            check_order(peer, first=2)


async def test_an_offer_that_is_open_when_a_pause_comes_goes_back_and_its_late_accept_is_lease_lost(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), connected(services, ready=2) as peer:
        taken, left = await enqueue(services), await enqueue(services)
        offers = {offer.job.id: offer for offer in [await peer.offer(), await peer.offer()]}
        await peer.ask("accept", AcceptedFrame, **of(offers[taken.id]))
        snapshot = await pause(services)
        await told(peer, 2)
        error = await peer.refused("lease_lost", "accept", **of(offers[left.id]))
        assert error.job_id == left.id
        await back(services, left)
        after = await get(services, left)
        assert (after.attempt, after.created_at) == (1, left.created_at)
        assert snapshot.metrics.running >= 1
        assert services.counters.own().count("offers_withdrawn") == 1
        # The accepted one goes on, and its end is the end of the drain.
        await peer.ask("complete", CompleteAckFrame, **of(offers[taken.id]))
        assert (await services.pause.status(LOCAL_OPERATOR)).metrics.safe_to_upgrade
        check_order(peer, first=1)


async def test_a_drain_ends_though_nobody_answers_what_was_offered(database_url: str) -> None:
    """The offers go back by themselves, and who waits for the drain is told in moments."""
    async with core(database_url) as (services, _), connected(services, ready=5) as peer:
        jobs = [await enqueue(services) for _ in range(5)]
        for _job in jobs:
            await peer.offer()
        await pause(services)
        with anyio.fail_after(3):
            query = WaitQuery.model_validate_strings({"for": "drained", "timeoutSeconds": "30"})
            snapshot = await services.pause.wait(LOCAL_OPERATOR, query)
        assert snapshot.reached
        assert {(await get(services, job)).status for job in jobs} == {JobStatus.QUEUED}


async def test_what_goes_back_is_announced_to_those_who_wait_for_the_drain(
    postgres_database_url: str,
) -> None:
    """On SQLite any commit is."""
    async with (
        core(postgres_database_url) as (services, _),
        core(postgres_database_url) as (others, _),
        connected(services, ready=1) as peer,
    ):
        job = await enqueue(services)
        await peer.offer()
        with others.watch.hub.subscribe("running") as changes:
            await pause(services)
            with anyio.fail_after(5):
                assert "running" in await changes.wait(5)
        await back(services, job)


async def test_an_accept_that_comes_when_the_database_is_paused_already_begins_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process has not heard of the pause yet; the accept's own transaction has."""
    async with (
        core(database_url) as (services, _),
        core(database_url) as (others, _),
        connected(services, ready=1) as peer,
    ):
        job = await enqueue(services)
        offer = await peer.offer()
        with monkeypatch.context() as patched:
            patched.setattr(services.watch, "learn", lambda *_, **__: None)
            await pause(others)
            await peer.refused("lease_lost", "accept", **of(offer))
            assert peer.versions() == []
            await back(others, job)
        assert (await told(peer, 2)).workers_paused
        assert (await get(services, job)).attempt == 1


async def test_a_readiness_stays_over_a_pause(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services, ready=2) as peer:
        await pause(services)
        await told(peer, 2)
        jobs = [await enqueue(services) for _ in range(3)]
        assert peer.offers() == []
        await resume(services)
        assert [(await peer.offer()).job.id for _ in range(2)] == [job.id for job in jobs[:2]]
        await peer.ask("heartbeat", HeartbeatAckFrame)
        assert len(peer.offers()) == 2
        check_order(peer, first=1)


async def test_a_job_that_was_claimed_under_an_older_version_is_not_offered_under_a_newer(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused and resumed while the claim's answer was under way: the pause came before the offer was accepted."""
    async with core(database_url) as (services, _), connected(services) as peer:
        job = await enqueue(services)
        taken, go_on = anyio.Event(), anyio.Event()
        offering = services.claims.offer

        async def held_up(*arguments: Any, **more: Any) -> Any:
            with anyio.CancelScope(shield=True):
                answer = await offering(*arguments, **more)
                if not taken.is_set():
                    taken.set()
                    await go_on.wait()
            return answer

        monkeypatch.setattr(services.claims, "offer", held_up)
        await peer.ready()
        await taken.wait()
        await pause(services)
        await resume(services)
        await told(peer, 3)
        assert peer.offers() == []
        go_on.set()
        offer = await peer.offer()  # of a new claim
        assert (offer.job.id, offer.system.version, offer.job.attempt) == (job.id, 3, 1)
        check_order(peer, first=1)


async def test_a_job_that_was_claimed_under_a_newer_version_waits_until_the_session_was_told_of_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        core(database_url) as (services, _),
        core(database_url) as (others, _),
        connected(services) as peer,
    ):
        gap, filled = anyio.Event(), anyio.Event()
        between = services.sessions.beside._between

        async def slow(*arguments: Any) -> Any:
            gap.set()
            await filled.wait()
            return await between(*arguments)

        monkeypatch.setattr(services.sessions.beside, "_between", slow)
        await pause(others)
        await resume(others)
        await gap.wait()
        await until(lambda: knows(services, 3))
        await enqueue(services)
        await peer.ready()

        async def claimed() -> bool:
            return (await services.pause.status(LOCAL_OPERATOR)).metrics.running == 1

        await until(claimed)
        assert peer.offers() == []
        filled.set()
        assert (await peer.offer()).system.version == 3
        check_order(peer, first=1)


async def test_what_a_heartbeat_answers_is_not_older_than_what_moving_the_leases_has_read(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        core(database_url) as (services, _),
        core(database_url) as (others, _),
        connected(services, ready=1) as peer,
    ):
        await enqueue(services)
        offer = await peer.offer()
        await peer.ask("accept", AcceptedFrame, **of(offer))
        between, told_late = services.sessions.beside._between, anyio.Event()

        async def slow(*arguments: Any) -> Any:
            told_late.set()
            await anyio.sleep(0.1)
            return await between(*arguments)

        monkeypatch.setattr(services.sessions.beside, "_between", slow)
        await pause(others)
        await told_late.wait()
        assert peer.versions() == []
        ack = await peer.ask("heartbeat", HeartbeatAckFrame, jobs=[of(offer)])
        assert ack.system.version == 2
        check_order(peer, first=1)


async def knows(services: Services, version: int) -> bool:
    return services.watch.known_version == version


async def test_the_order_holds_under_toggles_as_fast_as_they_can_be_made(database_url: str) -> None:
    """Some processes, each with sessions that are offered jobs all the time, and an operator who toggles."""
    chance = random.Random(11)
    done: list[Any] = []
    peers: list[Peer] = []
    async with (
        core(database_url) as (services, _),
        core(database_url) as (others, _),
        anyio.create_task_group() as tasks,
    ):
        for _number in range(400):
            await enqueue(services)

        async def work(name: str, where: Services, accepts: float) -> None:
            async with opened(where, name) as peer:
                await peer.ask("hello", WelcomeFrame, leaseSeconds=60, capabilities={})
                peers.append(peer)
                own = random.Random(name)
                while True:
                    await peer.ready(2)
                    offer = await peer.offer()
                    if own.random() < accepts:
                        await peer.say("accept", **of(offer))
                        await peer.say("complete", **of(offer))
                        done.append(offer.job.id)

        for number in range(4):
            tasks.start_soon(work, f"w-{number}", services if number % 2 else others, 0.9)
        version = 1
        for _round in range(25):
            await anyio.sleep(chance.uniform(0, 0.03))
            version = (await pause(services if chance.random() < 0.5 else others)).system.version
            assert (await claim(services, "late")).job is None
            # What was accepted may still be completed; nothing new may begin.
            version = (await resume(others if chance.random() < 0.5 else services)).system.version

        async def all_told() -> bool:
            return all(peer.versions() and peer.versions()[-1] == version for peer in peers)

        await until(all_told)
        tasks.cancel_scope.cancel()
    assert len(peers) == 4
    for peer in peers:
        welcome = next(frame for frame in peer.frames if isinstance(frame, WelcomeFrame))
        check_order(peer, first=welcome.system.version)
        assert len(peer.versions()) >= 40
    assert sum(len(peer.offers()) for peer in peers) > 20, (
        "hardly anything was offered: the race proved nothing"
    )


async def test_quiesce_parks_the_jobs_of_sessions_and_the_snapshot_says_so(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services, ready=1) as peer:
        job = await enqueue(services)
        offer = await peer.offer()
        await peer.ask("accept", AcceptedFrame, **of(offer))
        await pause(services, "quiesce")
        assert (await told(peer, 2)).mode is PauseMode.QUIESCE

        async def is_parked() -> bool:
            return (await services.pause.status(LOCAL_OPERATOR)).metrics.is_parked

        assert not await is_parked()
        parked = {**of(offer), "phase": "parked", "checkpoint": "c"}
        await peer.ask("heartbeat", HeartbeatAckFrame, observedVersion=2, jobs=[parked])
        assert await is_parked()
        (blocker,) = (await services.blockers.list(LOCAL_OPERATOR)).items
        assert (blocker.verdict, blocker.worker_id) == ("parked", "w")
        (worker,) = (await services.workers.list(LOCAL_OPERATOR)).items
        assert (worker.state, worker.jobs) == ("parked", [job.id])
        assert (await services.pause.status(LOCAL_OPERATOR)).workers.acknowledged == 1
        await resume(services)
        await peer.ask("complete", CompleteAckFrame, **of(offer))


async def test_a_fallen_version_is_told_and_believed(database_url: str) -> None:
    """As after a failover that lost commits: what the database says counts."""
    async with core(database_url) as (services, _), connected(services, ready=1) as peer:
        newest = (await services.watch.refresh()).model_copy(
            update={"version": 9, "workers_paused": True, "mode": PauseMode.DRAIN, "reason": "lost"}
        )
        services.watch.learn(newest, asked_at=float("-inf"))
        assert (await peer.hear(SystemFrame)).system.version == 9
        assert (await peer.hear(SystemFrame)).system.version == 1
        job = await enqueue(services)
        assert (await peer.offer()).job.id == job.id
        await complete(services, (await get(services, job)).model_copy(update={"lease_token": None}))
