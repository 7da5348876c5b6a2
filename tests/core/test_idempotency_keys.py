"""Idempotency keys: a repeat changes nothing more, and never says what is no longer so."""

from typing import Any

import anyio
import pytest
from sqlalchemy import func, select, update

from holdfast_core.callers import LOCAL_OPERATOR, Caller
from holdfast_core.db import Database
from holdfast_core.db.tables import idempotency_keys, jobs
from holdfast_core.db.types import Now
from holdfast_core.errors import (
    IdempotencyStale,
    InvalidRequest,
    KeyReused,
    NotAllowed,
    NotPaused,
    VersionConflict,
)
from holdfast_core.ids import uuid7
from holdfast_core.schemas import EnqueueBatchRequest, EnqueueRequest, WorkerPauseRequest, parse_request
from holdfast_core.services import Services
from holdfast_core.services.jobs import Enqueued
from holdfast_core.states import Role
from holdfast_core.store.users import ensure_user
from support.core import audit, claim, claimed, complete, enqueue, expire, get, pause, resume
from support.stores import core

pytestmark = pytest.mark.anyio


async def test_a_repeat_with_the_same_key_answers_again_and_writes_nothing(database_url: str) -> None:
    async with core(database_url) as (services, _):
        first = await pause(services, key="k-1")
        again = await pause(services, key="k-1")
        assert (first.replayed, again.replayed) == (False, True)
        assert again.system == first.system
        assert len(await audit(services)) == 1
        # Without the key, or under another, it is a request of its own.
        assert not (await pause(services)).replayed
        assert not (await pause(services, key="k-2")).replayed
        assert len(await audit(services)) == 3


async def test_a_replay_never_says_paused_of_a_running_system(database_url: str) -> None:
    async with core(database_url) as (services, _):
        first = await pause(services, key="k")
        running = (await resume(services)).system
        with pytest.raises(IdempotencyStale) as caught:
            await pause(services, key="k")
        assert caught.value.version == first.system.version == 2
        assert caught.value.system == running
        assert len(await audit(services)) == 2, "a stale replay leaves no event"


async def test_a_replay_keeps_the_warning_of_the_first_answer(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        job = await claimed(services)
        await pause(services)
        first = await resume(services, key="k")
        assert first.warning is not None
        await complete(services, job)
        again = await resume(services, key="k")
        assert (again.warning, again.replayed) == (first.warning, True)


async def test_another_body_under_the_same_key_is_refused(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await pause(services, key="k", reason="one")
        for body in ({"reason": "two"}, {"mode": "quiesce", "reason": "one"}, {"expectedVersion": 2}):
            with pytest.raises(KeyReused):
                await pause(services, key="k", **{"reason": "one", **body})
        with pytest.raises(KeyReused):
            await resume(services, key="k", reason="one")
        assert (await pause(services, key="k", reason="  one ")).replayed, "blanks around it do not count"
        assert len(await audit(services)) == 1


async def test_only_what_was_done_is_kept_so_a_refused_request_may_be_repeated(database_url: str) -> None:
    async with core(database_url) as (services, _):
        with pytest.raises(NotPaused):
            await resume(services, key="k")
        with pytest.raises(VersionConflict):
            await pause(services, key="v", expectedVersion=7)
        await pause(services)
        assert not (await resume(services, key="k")).replayed
        assert [event.outcome for event in await audit(services)] == [
            "refused",
            "refused",
            "changed",
            "changed",
        ]


async def test_keys_belong_to_who_uses_them(database_url: str) -> None:
    async with core(database_url) as (services, database):
        other = Caller(uuid7(), "somebody else", frozenset(Role))
        assert other.user_id is not None
        other_id = other.user_id
        await database.write(lambda c: ensure_user(c, other_id, other.name))
        await pause(services, key="k")
        request, _ = parse_request(
            WorkerPauseRequest, {"action": "pause", "mode": "drain", "reason": "a test"}
        )
        assert not (await services.pause.control(other, request, key="k")).replayed
        viewer = Caller(None, "viewer", frozenset({Role.VIEWER}))
        with pytest.raises(NotAllowed):
            await services.pause.control(viewer, request, key="k")


async def test_a_key_is_known_for_a_day(database_url: str) -> None:
    async with core(database_url) as (services, database):
        await pause(services, key="k")
        age = update(idempotency_keys).values(created_at=Now(-86_300))
        await database.write(lambda c: c.execute(age))
        assert (await pause(services, key="k")).replayed
        age = update(idempotency_keys).values(created_at=Now(-86_500))
        await database.write(lambda c: c.execute(age))
        assert not (await pause(services, key="k")).replayed
        assert (await pause(services, key="k")).replayed


async def test_of_many_requests_at_once_under_one_key_one_acts(database_url: str) -> None:
    async with core(database_url) as (one, _), core(database_url) as (two, _):
        answers = []

        async def ask(services: Services) -> None:
            answers.append(await pause(services, key="k"))

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(ask, (one, two)[number % 2])
        assert sorted(answer.replayed for answer in answers) == [False] + [True] * 11
        assert {answer.system.version for answer in answers} == {2}
        assert len(await audit(one)) == 1


async def put(services: Services, **body: Any) -> Enqueued:
    request, _ = parse_request(EnqueueRequest, {"type": "t", **body})
    return await services.jobs.enqueue(LOCAL_OPERATOR, request)


async def count(database: Database) -> int:
    return await database.read(lambda c: c.execute(select(func.count()).select_from(jobs)).scalar_one())


async def test_an_enqueue_that_is_repeated_under_its_key_answers_the_first_job(database_url: str) -> None:
    async with core(database_url) as (services, database):
        first = await put(services, payload={"n": 1}, idempotencyKey="k")
        again = await put(services, payload={"n": 1}, idempotencyKey="k")
        assert (first.is_new, again.is_new) == (True, False)
        assert again.job == first.job
        with pytest.raises(KeyReused):
            await put(services, payload={"n": 2}, idempotencyKey="k")
        done = await complete(services, await claimed(services))
        assert (await put(services, payload={"n": 1}, idempotencyKey="k")).job == done, "as it is by now"
        assert await count(database) == 1
        await database.write(lambda c: c.execute(jobs.delete()))
        assert (await put(services, payload={"n": 2}, idempotencyKey="k")).is_new, "the key goes with its job"


async def test_of_many_enqueues_at_once_under_one_key_one_makes_the_job(database_url: str) -> None:
    async with core(database_url) as (one, database), core(database_url) as (two, _):
        made: list[Enqueued] = []

        async def ask(services: Services) -> None:
            made.append(await put(services, type="never-seen", idempotencyKey="k"))

        async with anyio.create_task_group() as tasks:
            for number in range(16):
                tasks.start_soon(ask, (one, two)[number % 2])
        assert sum(one.is_new for one in made) == 1
        assert len({one.job.id for one in made}) == 1
        assert await count(database) == 1


async def batch(services: Services, *bodies: dict[str, Any]) -> list[Any]:
    request, _ = parse_request(EnqueueBatchRequest, {"jobs": [{"type": "t", **body} for body in bodies]})
    return (await services.jobs.enqueue_batch(LOCAL_OPERATOR, request)).items


async def test_a_batch_is_all_or_nothing_with_ids_that_rise_in_its_order(database_url: str) -> None:
    async with core(database_url) as (services, database):
        items = await batch(services, *({"type": f"t-{n % 7}", "payload": {"n": n}} for n in range(1_000)))
        assert [item.payload["n"] for item in items] == list(range(1_000))
        assert [item.id for item in items] == sorted(item.id for item in items)
        assert len({item.created_at for item in items}) == 1
        assert [(await claimed(services)).id for _ in range(3)] == [item.id for item in items[:3]]
        # Whatever a batch holds that cannot be, nothing of it is made.
        await put(services, idempotencyKey="k", payload={"n": 1})
        with pytest.raises(KeyReused):
            await batch(services, {}, {"idempotencyKey": "k", "payload": {"n": 2}})
        with pytest.raises(InvalidRequest) as caught:
            await batch(services, {"idempotencyKey": "x"}, {}, {"idempotencyKey": "x"})
        assert [error.field for error in caught.value.errors] == ["jobs[2].idempotencyKey"]
        assert await count(database) == 1_001


async def test_a_batch_that_is_repeated_under_its_keys_answers_the_same_jobs(database_url: str) -> None:
    async with core(database_url) as (services, database):
        bodies = [{"payload": {"n": n}, "idempotencyKey": f"k-{n}"} for n in range(5)]
        first = await batch(services, *bodies[:3])
        again = await batch(services, *bodies)
        assert [item.id for item in again[:3]] == [item.id for item in first]
        assert await count(database) == 5

        async def ask() -> None:
            assert [item.id for item in await batch(services, *bodies)] == [item.id for item in again]

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ask)


async def test_a_first_job_of_its_kind_may_come_from_many_at_once(database_url: str) -> None:
    async with core(database_url) as (one, database), core(database_url) as (two, _):
        async with anyio.create_task_group() as tasks:
            for number in range(24):
                tasks.start_soon(enqueue, (one, two)[number % 2])
        assert await count(database) == 24
        for _ in range(24):
            await claimed(two)


async def test_a_claim_that_is_repeated_gets_the_same_job_under_a_new_token(database_url: str) -> None:
    async with core(database_url) as (services, database):
        for _ in range(3):
            await enqueue(services)
        first = await claimed(services, requestId="r-1", leaseSeconds=30)
        again = await claimed(services, requestId="r-1", leaseSeconds=300)
        assert again.id == first.id
        assert again.lease_token not in {None, first.lease_token}
        assert again.lease_expires_at is not None
        assert first.lease_expires_at is not None
        assert (again.lease_expires_at - first.lease_expires_at).total_seconds() > 200
        assert (again.started_at, again.attempt) == (first.started_at, first.attempt)
        other = await claimed(services, requestId="r-2")
        assert other.id != first.id
        foreign = await claimed(services, "w-2", requestId="r-1")
        assert foreign.id not in {first.id, other.id}, "an id is its worker's own"
        await expire(database, again)
        assert (await claimed(services, requestId="r-1")).id == first.id, "stale, but nobody has taken it"


async def test_while_paused_a_repeated_claim_is_answered_null_like_every_claim(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        first = await claimed(services, requestId="r")
        await pause(services)
        answer = await claim(services, requestId="r")
        assert (answer.job, answer.system.workers_paused) == (None, True)
        await resume(services)
        assert (await claimed(services, requestId="r")).id == first.id


async def test_an_id_whose_claim_is_over_never_gets_a_second_job(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)
        await enqueue(services)
        job = await claimed(services, requestId="r")
        await complete(services, job)
        with pytest.raises(KeyReused, match="requestId"):
            await claim(services, requestId="r")
        assert (await get(services, job)).status == "succeeded"
        await claimed(services, requestId="r-2")


async def test_of_many_claims_at_once_under_one_id_at_most_one_job_is_taken(database_url: str) -> None:
    async with core(database_url) as (one, _), core(database_url) as (two, _):
        for number in range(20):
            await enqueue(one, payload={"n": number})
        got = []

        async def ask(services: Services) -> None:
            got.append((await claim(services, requestId="r")).job)

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(ask, (one, two)[number % 2])
        assert len({job.id for job in got if job is not None}) == 1
        assert (await one.pause.status(LOCAL_OPERATOR)).metrics.running == 1
        # The one that has the newest token holds the job.
        held = []
        for job in (job for job in got if job is not None):
            try:
                await complete(one, job)
            except Exception as error:
                held.append(error)
        assert len(held) == len([job for job in got if job is not None]) - 1
