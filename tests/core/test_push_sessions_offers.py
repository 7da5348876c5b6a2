"""Offers: to whom they go, how each ends, and that a job which is not accepted loses nothing."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
import pytest

from core.sessions import Peer, connected, of
from holdfast_core.errors import StoreUnavailable
from holdfast_core.schemas import Job
from holdfast_core.schemas.sessions import (
    AcceptedFrame,
    CancelFrame,
    ErrorFrame,
    HeartbeatAckFrame,
    ReleaseAckFrame,
)
from holdfast_core.services import Services, offers, refusals
from holdfast_core.states import JobStatus
from support.core import MovableClock, cancel, claim, claimed, complete, enqueue, get, pause, release, until
from support.stores import core

pytestmark = pytest.mark.anyio


async def is_unharmed(services: Services, before: Job) -> None:
    """Wait until the job is back as it was: in its place, no attempt used, at once to be had."""

    async def back() -> bool:
        return (await get(services, before)).status is JobStatus.QUEUED

    await until(back)
    after = await get(services, before)
    changed = {name for name, value in dict(after).items() if value != dict(before)[name]}
    assert changed <= {"updated_at", "started_at"}
    assert (after.attempt, after.claimed_by) == (1, None)


async def settled(peer: Peer) -> int:
    """How many offers there are once everything that was under way has come to rest."""
    for _round in range(5):
        await anyio.sleep(0.02)
        await peer.ask("heartbeat", HeartbeatAckFrame)
    return len(peer.offers())


async def test_nothing_is_offered_to_a_worker_that_is_not_ready(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services) as peer:
        await enqueue(services)
        assert await settled(peer) == 0
        await peer.ready(1)
        await peer.offer()
        await peer.ready(0)
        await enqueue(services)
        assert await settled(peer) == 1


async def test_each_offer_uses_up_one_slot_and_each_ready_sets_the_number(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services) as peer:
        for _number in range(10):
            await enqueue(services)
        await peer.ready(5)
        await peer.ready(2)
        await peer.offer()
        await peer.offer()
        assert await settled(peer) == 2
        await peer.ready(1)
        await peer.offer()
        assert await settled(peer) == 3


async def test_so_many_offers_are_open_at_once_and_no_more(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "MOST_OPEN", 2)
    async with core(database_url) as (services, _), connected(services, ready=10) as peer:
        for _number in range(4):
            await enqueue(services)
        first = await peer.offer()
        await peer.offer()
        assert await settled(peer) == 2
        await peer.ask("accept", AcceptedFrame, **of(first))
        await peer.offer()
        assert await settled(peer) == 3


async def test_nothing_is_offered_to_a_worker_that_its_operator_has_paused(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services, ready=1, autoEnabled=False) as peer:
        job = await enqueue(services)
        assert await settled(peer) == 0
        await peer.ask("heartbeat", HeartbeatAckFrame, capabilities={"autoEnabled": True})
        assert (await peer.offer()).job.id == job.id


async def test_a_local_pause_withdraws_the_claim_that_waits_and_its_end_brings_it_back(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), connected(services, ready=1) as peer:

        async def waits(count: int) -> None:
            async def so_many() -> bool:
                return len(services.waiters) == count

            await until(so_many)

        await waits(1)
        await peer.ask("heartbeat", HeartbeatAckFrame, capabilities={"autoEnabled": False})
        await waits(0)
        job = await enqueue(services)
        assert await settled(peer) == 0
        assert (await get(services, job)).status is JobStatus.QUEUED
        await peer.ask("heartbeat", HeartbeatAckFrame, capabilities={"autoEnabled": True})
        await peer.offer()


async def test_a_job_that_was_claimed_as_the_worker_was_paused_locally_goes_back_unoffered(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core(database_url) as (services, _), connected(services) as peer:
        before = await enqueue(services)
        taken, go_on = anyio.Event(), anyio.Event()
        offering = services.claims.offer

        async def held_up(*arguments: Any, **more: Any) -> Any:
            answer = await offering(*arguments, **more)
            taken.set()
            with anyio.CancelScope(shield=True):
                await go_on.wait()
            return answer

        monkeypatch.setattr(services.claims, "offer", held_up)
        await peer.ready(1)
        await taken.wait()
        assert (await get(services, before)).status is JobStatus.RUNNING
        await peer.ask("heartbeat", HeartbeatAckFrame, capabilities={"autoEnabled": False})
        go_on.set()
        await is_unharmed(services, before)
        assert peer.offers() == []


async def test_only_jobs_that_the_worker_takes_are_offered_also_when_it_changes_its_mind(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), connected(services, ready=3, types=["a"]) as peer:
        await enqueue(services, type="b")
        gpu = await enqueue(services, type="a", requiredCapabilities=["gpu"])
        plain = await enqueue(services, type="a")
        assert (await peer.offer()).job.id == plain.id
        assert await settled(peer) == 1
        wanted = {"types": ["a"], "capabilities": ["gpu"]}
        await peer.ask("heartbeat", HeartbeatAckFrame, capabilities=wanted)
        assert (await peer.offer()).job.id == gpu.id
        assert await settled(peer) == 2


async def test_a_rejected_offer_goes_back_unharmed_and_not_to_the_same_worker_for_half_a_minute(
    database_url: str,
) -> None:
    clock = MovableClock()
    async with core(database_url, clock=clock) as (services, _), connected(services, ready=2) as peer:
        before = await enqueue(services)
        offer = await peer.offer()
        reason = "worker paused by operator"
        await peer.ask("reject", ReleaseAckFrame, **of(offer), reason=reason)
        await is_unharmed(services, before)
        assert services.counters.own().count("offers_rejected") == 1
        # A reject ends readiness, though a slot was left.
        after = await enqueue(services)
        assert await settled(peer) == 1
        await peer.ready(2)
        assert (await peer.offer()).job.id == after.id
        assert await settled(peer) == 2
        assert (await get(services, before)).status is JobStatus.QUEUED
        clock.ahead += 31
        await peer.ready(2)  # the claim that waits is begun anew
        assert (await peer.offer()).job.id == before.id


async def test_what_a_worker_turned_down_is_not_offered_to_its_next_session_either(database_url: str) -> None:
    async with core(database_url) as (services, _):
        before = await enqueue(services)
        async with connected(services, ready=1) as peer:
            await peer.ask("reject", ReleaseAckFrame, **of(await peer.offer()))
        async with connected(services, ready=1) as peer, connected(services, "other") as other:
            assert await settled(peer) == 0
            await other.ready()
            assert (await other.offer()).job.id == before.id


async def test_who_turned_a_job_down_does_not_stand_in_the_way_of_others_of_its_kind(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), connected(services, "first", ready=1) as first:
        job = await enqueue(services)
        offer = await first.offer()
        async with connected(services, "second") as second:
            await first.ask("reject", ReleaseAckFrame, **of(offer))
            held = await claimed(services, "third")
            await first.ready()

            async def waits() -> bool:
                return len(services.waiters) == 1

            await until(waits)
            await second.ready()

            async def both_wait() -> bool:
                return len(services.waiters) == 2

            await until(both_wait)
            # The only job comes back: the first in the row may not have it.
            await release(services, held)
            with anyio.fail_after(0.9):  # the poll behind takes a second
                assert (await second.offer()).job.id == job.id


async def test_an_offer_that_is_not_answered_goes_back_unharmed_and_ends_readiness(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "ANSWER_SECONDS", 0.1)
    async with core(database_url) as (services, _), connected(services, ready=2, leaseSeconds=1) as peer:
        before = await enqueue(services)
        offer = await peer.offer()
        await is_unharmed(services, before)
        assert services.counters.own().count("offers_unanswered") == 1
        await enqueue(services)
        assert await settled(peer) == 1
        # Its late answers find nothing.
        await peer.refused("lease_lost", "accept", **of(offer))
        assert (await get(services, before)).status is JobStatus.QUEUED


async def test_the_lease_of_an_offer_outlasts_the_time_for_its_answer_however_short_the_workers_own(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), connected(services, ready=1, leaseSeconds=1) as peer:
        await enqueue(services)
        expires_at = (await peer.offer()).job.lease_expires_at
        assert expires_at is not None
        assert expires_at > datetime.now(UTC) + timedelta(seconds=offers.ANSWER_SECONDS)


async def test_an_accept_that_is_said_twice_is_answered_twice_and_one_for_another_claim_is_refused(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), connected(services, ready=1) as peer:
        await enqueue(services)
        offer = await peer.offer()
        await peer.refused("lease_lost", "accept", jobId=offer.job.id, leaseToken="another")
        await peer.ask("accept", AcceptedFrame, **of(offer))
        await peer.ask("accept", AcceptedFrame, **of(offer))
        assert services.counters.own().count("offers_accepted") == 1


async def test_an_offer_whose_acceptance_the_store_did_not_take_goes_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core(database_url) as (services, _), connected(services, ready=1) as peer:
        before = await enqueue(services)
        offer = await peer.offer()

        async def away(*_: object, **__: object) -> None:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patched:
            patched.setattr(services.leases, "heartbeat_all", away)
            error = await peer.ask("accept", ErrorFrame, **of(offer))
            assert (error.code, error.job_id) == ("store_unavailable", before.id)
        await is_unharmed(services, before)
        await peer.refused("lease_lost", "accept", **of(offer))


async def test_a_hand_back_that_the_store_did_not_take_is_tried_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While paused nothing is swept: what is not given back would keep the drain from ending."""
    async with core(database_url) as (services, _), connected(services, ready=1) as peer:
        before = await enqueue(services)
        await peer.offer()
        giving = services.claims.give_back
        tried: list[int] = []

        async def at_first_away(*arguments: Any) -> None:
            tried.append(1)
            if len(tried) < 3:
                raise StoreUnavailable("away")
            await giving(*arguments)

        monkeypatch.setattr(services.claims, "give_back", at_first_away)
        await pause(services)
        await is_unharmed(services, before)
        assert len(tried) == 3


async def test_a_session_rests_while_the_store_is_away_and_goes_on_after(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "AFTER_FAILURE_SECONDS", 0.05)
    async with core(database_url) as (services, _), connected(services) as peer:
        offering = services.claims.offer
        tried: list[int] = []

        async def at_first_away(*arguments: Any, **more: Any) -> Any:
            tried.append(1)
            if len(tried) < 4:
                raise StoreUnavailable("away")
            return await offering(*arguments, **more)

        monkeypatch.setattr(services.claims, "offer", at_first_away)
        job = await enqueue(services)
        await peer.ready()
        assert (await peer.offer()).job.id == job.id


async def test_a_worker_that_turns_down_everything_is_offered_nothing_for_a_while(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "MOST_REFUSED", 3)
    async with core(database_url) as (services, _), connected(services) as peer:
        for _number in range(4):
            await enqueue(services)
        for _number in range(3):
            await peer.ready()
            await peer.ask("reject", ReleaseAckFrame, **of(await peer.offer()))
        await peer.ready()
        assert await settled(peer) == 3


async def test_refusals_are_forgotten_when_their_time_is_over() -> None:
    clock = MovableClock()
    known = refusals.Refusals(clock)
    jobs = [UUID(int=1), UUID(int=2)]
    known.add("w", jobs[0])
    clock.ahead += 20
    known.add("w", jobs[1])
    assert known.of("w")[0] == (jobs[0], jobs[1])
    assert 9 < known.of("w")[1] <= 10
    known.add("w", jobs[0])  # again: its time begins anew
    assert 29 < known.of("w")[1] <= 30
    assert known.of("other") == ((), refusals.REFUSED_SECONDS)
    clock.ahead += 31
    assert known.of("w") == ((), refusals.REFUSED_SECONDS)


async def test_an_offered_job_that_is_cancelled_ends_when_it_is_turned_down_and_is_stopped_when_accepted(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), connected(services, ready=2) as peer:
        one, two = await enqueue(services), await enqueue(services)
        offered = {offer.job.id: offer for offer in [await peer.offer(), await peer.offer()]}
        await cancel(services, one)
        await cancel(services, two)
        await peer.ask("accept", AcceptedFrame, **of(offered[two.id]))
        assert (await peer.hear(CancelFrame)).job_id == two.id
        await peer.ask("reject", ReleaseAckFrame, **of(offered[one.id]))
        assert (await get(services, one)).status is JobStatus.CANCELLED


async def test_offers_and_plain_claims_share_out_the_work_and_no_job_goes_to_two(database_url: str) -> None:
    count, got = 40, list[Any]()
    async with core(database_url) as (services, _), anyio.create_task_group() as tasks:

        async def work(name: str) -> None:
            async with connected(services, name) as peer:
                while True:
                    await peer.ready()
                    offer = await peer.offer()
                    await peer.ask("accept", AcceptedFrame, **of(offer))
                    got.append(offer.job.id)
                    await complete(services, offer.job)

        async def ask(name: str) -> None:
            while True:
                job = await claimed_within(services, name)
                got.append(job.id)
                await complete(services, job)

        for number in range(4):
            tasks.start_soon(work, f"pushed-{number}")
            tasks.start_soon(ask, f"asking-{number}")
        made = [await enqueue(services) for _ in range(count)]

        async def all_done() -> bool:
            return len(got) == count

        await until(all_done)
        tasks.cancel_scope.cancel()
    assert sorted(got) == sorted(job.id for job in made)


async def claimed_within(services: Services, name: str) -> Job:
    while (answer := await claim(services, name, waitSeconds=5)).job is None:
        pass
    return answer.job
