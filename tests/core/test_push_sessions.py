"""Push sessions: what a worker says and is answered, frame by frame (CONTRACT section 6)."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import anyio
import pytest

from core.sessions import connected, of, opened
from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.errors import StoreUnavailable, Unavailable
from holdfast_core.schemas import JobEventQuery
from holdfast_core.schemas.sessions import (
    AcceptedFrame,
    CancelFrame,
    CompleteAckFrame,
    ErrorFrame,
    FailAckFrame,
    HeartbeatAckFrame,
    LogAckFrame,
    ReleaseAckFrame,
    StoppedAckFrame,
    WelcomeFrame,
)
from holdfast_core.services import outbox, sessions
from holdfast_core.services import session as session_module
from holdfast_core.states import JobPhase, JobStatus, WorkerState
from support.core import cancel, claim, claimed, complete, enqueue, expire, get, pause, until
from support.stores import core

pytestmark = pytest.mark.anyio


async def test_a_worker_is_welcomed_with_the_pause_as_it_is(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await pause(services, "quiesce", reason="an upgrade")
        async with opened(services) as peer:
            welcome = await peer.ask("hello", WelcomeFrame, leaseSeconds=60, capabilities={})
            assert (welcome.system.version, welcome.system.reason) == (2, "an upgrade")
            assert welcome.heartbeat_seconds == session_module.HEARTBEAT_SECONDS
            assert welcome.leases == []
            assert len(services.sessions) == 1
        assert len(services.sessions) == 0


async def test_an_offered_job_is_accepted_worked_on_and_completed(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services, ready=1, leaseSeconds=300) as peer:
        job = await enqueue(services, payload={"a": 1})
        offer = await peer.offer()
        assert (offer.job.id, offer.job.payload, offer.job.claimed_by) == (job.id, {"a": 1}, "w")
        assert not offer.system.workers_paused
        accepted = await peer.ask("accept", AcceptedFrame, **of(offer))
        assert (accepted.job_id, accepted.lease_token) == (job.id, offer.job.lease_token)
        left = accepted.lease_expires_at - datetime.now(UTC)
        assert timedelta(seconds=200) < left <= timedelta(seconds=301)
        log = await peer.ask("log", LogAckFrame, **of(offer), message="at it")
        assert log.sequence == 1
        done = await peer.ask("complete", CompleteAckFrame, **of(offer), resultSummary="done")
        assert done.job_id == job.id
        ended = await get(services, job)
        assert (ended.status, ended.result_summary, ended.attempt) == (JobStatus.SUCCEEDED, "done", 1)
        assert services.counters.own().count("offers_accepted") == 1


async def test_a_job_can_be_failed_released_and_stopped_by_frames(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services) as peer:
        for kind, wanted, fields, status in (
            ("fail", FailAckFrame, {"errorMessage": "it broke"}, JobStatus.FAILED),
            ("release", ReleaseAckFrame, {"reason": "too busy"}, JobStatus.QUEUED),
        ):
            job = await enqueue(services, type=kind)
            await peer.ready()
            offer = await peer.offer()
            await peer.ask("accept", AcceptedFrame, **of(offer))
            await peer.ask(kind, wanted, **of(offer), **fields)
            assert (await get(services, job)).status is status
            if status is JobStatus.QUEUED:
                await cancel(services, job)
        job = await enqueue(services, type="stopped")
        await peer.ready()
        offer = await peer.offer()
        await peer.ask("accept", AcceptedFrame, **of(offer))
        await peer.refused("job_state_conflict", "stopped", **of(offer))
        await cancel(services, job, reason="not needed")
        asked = await peer.hear(CancelFrame)
        assert (asked.job_id, asked.lease_token, asked.reason) == (
            job.id,
            offer.job.lease_token,
            "not needed",
        )
        await peer.ask("stopped", StoppedAckFrame, **of(offer))
        assert (await get(services, job)).status is JobStatus.CANCELLED


async def test_what_is_refused_over_rest_is_refused_in_a_session_with_the_same_code_and_the_job_named(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), connected(services) as peer:
        await enqueue(services)
        other = await claimed(services, "another")
        error = await peer.refused("job_not_owned", "complete", jobId=other.id, leaseToken="x")
        assert (error.job_id, error.lease_token) == (other.id, "x")
        await peer.refused("job_not_found", "fail", jobId=uuid4(), leaseToken="x", errorMessage="e")
        await peer.refused("job_not_owned", "log", jobId=other.id, leaseToken="x", message="m")
        assert (await get(services, other)).status is JobStatus.RUNNING


async def test_fields_that_are_not_known_are_ignored_and_named_and_the_ref_comes_back(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), opened(services) as peer:
        welcome = await peer.ask("hello", WelcomeFrame, leaseSeconds=60, capabilities={}, colour="red")
        assert welcome.ignored_fields == ["colour"]
        ack = await peer.ask("heartbeat", HeartbeatAckFrame, mood="good")
        assert ack.ignored_fields == ["mood"]
        await peer.say("heartbeat")
        assert (await peer.hear(HeartbeatAckFrame)).ref is None


async def test_a_malformed_frame_is_answered_with_what_its_sender_knows_it_by(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services) as peer:
        job_id = UUID(int=7)
        error = await peer.refused("invalid_request", "accept", jobId=job_id, lease_token="x")
        assert "leaseToken" in error.message
        assert error.job_id == job_id
        await peer.refused("invalid_request", "nonsense")
        for raw in ("", "[]", "null", '{"type": 1}', '{"type": "heartbeat", "ref": 7}', "{" * 5_000):
            await peer.session.handle(raw)
            assert (await peer.hear(ErrorFrame)).code == "invalid_request"
        await peer.ask("heartbeat", HeartbeatAckFrame)


async def test_a_session_is_closed_after_twenty_malformed_frames(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services) as peer:
        for _number in range(session_module.MOST_MALFORMED):
            assert not peer.session.outbox.over
            await peer.session.handle("nonsense")
        await peer.ended.wait()
        closed = peer.session.outbox.closed
        assert closed is not None
        assert closed.code == 1008
        assert sum(isinstance(frame, ErrorFrame) for frame in peer.frames) == session_module.MOST_MALFORMED


async def test_the_first_frame_is_hello_and_there_is_one(database_url: str) -> None:
    async with core(database_url) as (services, _):
        async with opened(services) as peer:
            await peer.refused("invalid_request", "readyForMore", slots=1)
            await peer.ended.wait()
            assert peer.session.outbox.closed is not None
            assert peer.session.outbox.closed.code == 1008
        async with connected(services) as peer:
            await peer.refused("invalid_request", "hello", leaseSeconds=60, capabilities={})
            await peer.ask("heartbeat", HeartbeatAckFrame)


async def test_a_frame_that_meets_a_bug_is_answered_and_the_session_goes_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core(database_url) as (services, _), connected(services) as peer:

        async def broken(*_: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(services.logs, "append", broken)
        error = await peer.refused("internal_error", "log", jobId=UUID(int=1), leaseToken="x", message="m")
        assert "secret" not in error.message
        await peer.ask("heartbeat", HeartbeatAckFrame)


async def test_a_heartbeat_moves_the_leases_of_all_jobs_and_says_which_are_lost(database_url: str) -> None:
    async with core(database_url) as (services, database), connected(services, leaseSeconds=600) as peer:
        for _number in range(3):
            await enqueue(services)
        held = [await claimed(services) for _ in range(3)]
        await complete(services, held[1])
        jobs = [{"jobId": job.id, "leaseToken": job.lease_token} for job in held]
        foreign = {"jobId": uuid4(), "leaseToken": "x"}
        ack = await peer.ask(
            "heartbeat",
            HeartbeatAckFrame,
            jobs=[{**jobs[0], "phase": "parked", "checkpoint": "after tests"}, *jobs[1:], foreign],
        )
        assert [(lease.job_id, lease.lost) for lease in ack.leases] == [
            (held[0].id, False),
            (held[1].id, True),
            (held[2].id, False),
            (foreign["jobId"], True),
        ]
        for number in (0, 2):
            expires_at = (await get(services, held[number])).lease_expires_at
            assert expires_at == ack.leases[number].lease_expires_at
            assert expires_at is not None
            assert expires_at > datetime.now(UTC) + timedelta(seconds=500)
        told = await get(services, held[0])
        assert (told.phase, told.checkpoint) == (JobPhase.PARKED, "after tests")
        assert (await get(services, held[2])).phase is JobPhase.RUNNING
        # A lease that has run out is revived while nobody has taken the job, as over REST.
        await expire(database, held[2])
        ack = await peer.ask("heartbeat", HeartbeatAckFrame, jobs=[jobs[2]])
        assert [lease.lost for lease in ack.leases] == [False]


async def test_where_the_store_is_away_a_heartbeat_moves_no_lease_and_says_so(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core(database_url) as (services, _), connected(services) as peer:
        await enqueue(services)
        job = await claimed(services)

        async def away(*_: object, **__: object) -> None:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patched:
            patched.setattr(services.leases, "heartbeat_all", away)
            error = await peer.ask(
                "heartbeat", ErrorFrame, jobs=[{"jobId": job.id, "leaseToken": job.lease_token}]
            )
            assert error.code == "store_unavailable"
        await peer.ask("heartbeat", HeartbeatAckFrame)


async def test_what_a_worker_says_of_itself_shows_in_the_fleet(database_url: str) -> None:
    async with core(database_url) as (services, _):
        abilities = {
            "types": ["a", "b"],
            "capabilities": ["gpu"],
            "slots": 4,
            "runtime": "python 3.11",
            "version": "1.2",
        }
        async with connected(services, "pushed", **abilities) as peer:

            async def seen() -> list[object]:
                (worker,) = (await services.workers.list(LOCAL_OPERATOR)).items
                return [
                    worker.types,
                    worker.capabilities,
                    worker.slots,
                    worker.runtime,
                    worker.version,
                    worker.transport,
                    worker.auto_enabled,
                    worker.state,
                ]

            told = [["a", "b"], ["gpu"], 4, "python 3.11", "1.2", "ws"]
            assert await seen() == [*told, True, WorkerState.IDLE]
            paused = {**abilities, "autoEnabled": False}
            await peer.ask("heartbeat", HeartbeatAckFrame, capabilities=paused)
            assert await seen() == [*told, False, WorkerState.PAUSED]
            # A heartbeat that says nothing of them, and what comes over REST, leaves them.
            await peer.ask("heartbeat", HeartbeatAckFrame)
            assert await seen() == [*told, False, WorkerState.PAUSED]
            await claim(services, "pushed", workerCapabilities=["gpu"])
            assert (await seen())[:5] == told[:5]


async def test_what_a_worker_said_of_itself_to_another_process_stays(database_url: str) -> None:
    async with (
        core(database_url) as (services, _),
        core(database_url) as (others, _),
        connected(services, "w", types=["a"], slots=3, runtime="r"),
    ):
        await services.presence.flush()
        await claim(others, "w")
        (worker,) = (await others.workers.list(LOCAL_OPERATOR)).items
        assert (worker.types, worker.slots, worker.runtime, worker.version) == (["a"], 3, "r", None)


async def test_a_version_that_a_heartbeat_reports_is_acknowledged(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services, observedVersion=1) as peer:
        await pause(services)

        async def acknowledged() -> int:
            await services.presence.flush()
            return (await services.pause.status(LOCAL_OPERATOR)).workers.acknowledged

        assert await acknowledged() == 0
        ack = await peer.ask("heartbeat", HeartbeatAckFrame, observedVersion=2)
        assert ack.system.version == 2
        assert await acknowledged() == 1


async def test_accepted_jobs_keep_their_leases_when_the_session_drops_and_the_next_one_takes_them_up(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _):
        job, gone = await enqueue(services, type="kept"), await enqueue(services, type="gone")
        async with connected(services, ready=2, leaseSeconds=100) as peer:
            offers = [await peer.offer(), await peer.offer()]
            for offer in offers:
                await peer.ask("accept", AcceptedFrame, **of(offer))
        for one in (job, gone):
            assert (await get(services, one)).status is JobStatus.RUNNING
        held = {offer.job.type: of(offer) for offer in offers}
        await cancel(services, job)
        (ended,) = (offer.job for offer in offers if offer.job.id == gone.id)
        await complete(services, ended)
        async with opened(services) as peer:
            welcome = await peer.ask(
                "hello", WelcomeFrame, leaseSeconds=900, capabilities={}, jobs=[held["kept"], held["gone"]]
            )
            assert [(lease.job_id, lease.lost) for lease in welcome.leases] == [
                (job.id, False),
                (gone.id, True),
            ]
            kept = await get(services, job)
            assert kept.lease_expires_at == welcome.leases[0].lease_expires_at
            assert kept.lease_expires_at is not None
            assert kept.lease_expires_at > datetime.now(UTC) + timedelta(seconds=800)
            # What was asked meanwhile is told behind the welcome.
            assert (await peer.hear(CancelFrame)).job_id == job.id
            await peer.ask("complete", CompleteAckFrame, **held["kept"])


async def test_a_cancellation_is_told_at_once_and_once_for_each_claim_whichever_process_is_asked(
    database_url: str,
) -> None:
    async with core(database_url) as (services, _), core(database_url) as (others, _):
        first, second = await enqueue(services), await enqueue(services)
        async with connected(services, ready=2) as peer:
            offers = {offer.job.id: offer for offer in [await peer.offer(), await peer.offer()]}
            for offer in offers.values():
                await peer.ask("accept", AcceptedFrame, **of(offer))
            with anyio.fail_after(3):  # the poll behind takes 5
                await cancel(services, first, reason="one")
                asked = await peer.hear(CancelFrame)
                assert (asked.job_id, asked.reason) == (first.id, "one")
                await cancel(others, second, reason="two")
                asked = await peer.hear(CancelFrame)
                assert (asked.job_id, asked.reason) == (second.id, "two")
            await services.sessions.beside._tell_cancels()
            await peer.ask("heartbeat", HeartbeatAckFrame, jobs=[of(offer) for offer in offers.values()])
            assert sum(isinstance(frame, CancelFrame) for frame in peer.frames) == 2
            # Stopping is the worker's word; a job that it completes all the same has succeeded.
            await peer.ask("complete", CompleteAckFrame, **of(offers[first.id]))
            assert (await get(services, first)).status is JobStatus.SUCCEEDED


async def test_a_second_session_under_the_same_id_closes_the_first(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services, ready=1) as first:
        async with connected(services) as second:
            with anyio.fail_after(2):
                await first.ended.wait()
            assert first.session.outbox.closed is not None
            assert first.session.outbox.closed.code == 4002
            # The first takes nothing any more, though it had been ready.
            await enqueue(services)
            await second.ready()
            await second.ask("accept", AcceptedFrame, **of(await second.offer()))
            assert first.offers() == []
        # The end of the first does not end the second, nor the other way round.
        assert len(services.sessions) == 1


async def test_a_second_session_in_another_process_closes_the_first_and_what_it_was_offered_goes_back(
    database_url: str,
) -> None:
    async with (
        core(database_url) as (services, _),
        core(database_url) as (others, _),
        connected(services, ready=1) as first,
    ):
        job = await enqueue(services)
        await first.offer()
        async with connected(others) as second:
            with anyio.fail_after(3):  # the poll behind takes 5
                await first.ended.wait()
            assert first.session.outbox.closed is not None
            assert first.session.outbox.closed.code == 4002

            async def back() -> bool:
                return (await get(others, job)).status is JobStatus.QUEUED

            await until(back)
            await second.ready()
            assert (await second.offer()).job.id == job.id
            await second.ask("heartbeat", HeartbeatAckFrame)


async def test_of_two_sessions_that_begin_together_one_stays(database_url: str) -> None:
    async with core(database_url) as (services, _):
        for _round in range(5):
            async with opened(services) as one, opened(services) as two, anyio.create_task_group() as tasks:
                for peer in (one, two):
                    tasks.start_soon(lambda p=peer: p.say("hello", leaseSeconds=60, capabilities={}))

                async def one_is_over() -> bool:
                    return one.session.outbox.over or two.session.outbox.over

                await until(one_is_over)
                await services.sessions.beside._close_superseded()
                over = [peer.session.outbox.over for peer in (one, two)]
                assert sorted(over) == [False, True]


async def test_no_more_sessions_are_opened_than_a_process_may_have(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    async with core(database_url) as (services, _), opened(services, "a"), opened(services, "b"):
        with pytest.raises(Unavailable):
            async with opened(services, "c"):
                pass
        assert len(services.sessions) == 2


async def test_a_worker_that_does_not_read_is_closed_and_holds_nobody_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_WAITING", 8)
    async with (
        core(database_url) as (services, _),
        services.sessions.open(LOCAL_OPERATOR, "deaf") as deaf,
        connected(services, "w") as peer,
    ):
        await deaf.handle(json.dumps({"type": "hello", "leaseSeconds": 60, "capabilities": {}}))
        await deaf.handle(json.dumps({"type": "readyForMore", "slots": 1}))
        for _number in range(8):
            await deaf.handle(json.dumps({"type": "heartbeat"}))
        assert deaf.outbox.over
        assert deaf.outbox.closed is not None
        assert deaf.outbox.closed.code == 1013
        job = await enqueue(services)
        await peer.ready()
        assert (await peer.offer()).job.id == job.id


async def test_where_a_session_ends_offers_that_were_not_accepted_go_back(database_url: str) -> None:
    async with core(database_url) as (services, _):
        jobs = [await enqueue(services) for _ in range(3)]
        async with connected(services, ready=3) as peer:
            offers = [await peer.offer() for _ in jobs]
            await peer.ask("accept", AcceptedFrame, **of(offers[0]))
        after = [await get(services, job) for job in jobs]
        assert [(job.status, job.attempt) for job in after] == [
            (JobStatus.RUNNING, 1),
            (JobStatus.QUEUED, 1),
            (JobStatus.QUEUED, 1),
        ]
        assert services.counters.own().count("offers_withdrawn") == 2


async def test_a_log_line_of_a_session_is_in_the_log_of_the_job(database_url: str) -> None:
    async with core(database_url) as (services, _), connected(services, ready=1) as peer:
        job = await enqueue(services)
        offer = await peer.offer()
        await peer.ask("accept", AcceptedFrame, **of(offer))
        await peer.ask("log", LogAckFrame, **of(offer), level="warn", message="hot", payload={"c": 90})
        page = await services.logs.page(LOCAL_OPERATOR, str(job.id), JobEventQuery())
        assert [(e.level, e.message, e.payload, e.worker_id) for e in page.items] == [
            ("warn", "hot", {"c": 90}, "w")
        ]
