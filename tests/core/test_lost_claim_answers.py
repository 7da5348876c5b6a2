"""A lost claim answer costs nothing: the repeat gets the job, and neither the late twin nor its hand-back takes it."""

from typing import Any

import anyio
import pytest
from sqlalchemy import Connection

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.db import Lane
from holdfast_core.schemas import Job
from holdfast_core.services import Services
from holdfast_core.store import claims as claim_store
from holdfast_core.store.claims import Claim, Taken
from support.core import claim, claimed, complete, enqueue, heartbeat, until
from support.stores import core

pytestmark = pytest.mark.anyio


async def test_a_late_twin_that_came_before_the_repeat_does_not_void_its_token(database_url: str) -> None:
    """The first call is held up on its way to the database; its repeat passes it."""
    async with core(database_url) as (one, database), core(database_url) as (two, _):
        await enqueue(one)
        await enqueue(one)
        held = Claim("w", 60, "0" * 64, None, (), "r", age_seconds=0.0)
        began = anyio.current_time()
        await anyio.lowlevel.checkpoint()
        repeat = await claimed(two, requestId="r")
        late = Claim(**{**fields(held), "age_seconds": anyio.current_time() - began + 0.5})

        def take(connection: Connection) -> Taken:
            return claim_store.take(connection, late, token="late")

        taken = await database.write(take, lane=Lane.GATED)
        assert (taken.job, taken.known, taken.over) == (None, True, False)
        await heartbeat(two, repeat)
        await complete(two, repeat)


def fields(held: Claim) -> dict[str, Any]:
    return {name: getattr(held, name) for name in Claim.__dataclass_fields__}


async def test_the_hand_back_of_the_first_call_takes_nothing_from_the_repeat(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call's client goes away just as its job is taken; before the job is handed back, the repeat comes."""
    async with core(database_url) as (one, database), core(database_url) as (two, _):
        await enqueue(one)
        repeated: list[Job] = []
        write = database.write
        with anyio.CancelScope() as scope:

            async def writing(work: Any, *, lane: Lane = Lane.PLAIN) -> Any:
                with anyio.CancelScope(shield=True):
                    if lane is Lane.GATED:
                        taken = await write(work, lane=lane)
                        scope.cancel()  # the client has gone
                        return taken
                    if scope.cancel_called and not repeated:  # now the job would be handed back
                        repeated.append(await claimed(two, requestId="r"))
                    return await write(work, lane=lane)

            monkeypatch.setattr(database, "write", writing)
            await claim(one, requestId="r")
        assert scope.cancelled_caught
        assert len(repeated) == 1
        await heartbeat(two, repeated[0])
        assert (await two.pause.status(LOCAL_OPERATOR)).metrics.running == 1
        await complete(two, repeated[0])


async def test_a_claim_that_was_handed_back_may_be_repeated_under_its_id(database_url: str) -> None:
    async with core(database_url) as (services, _):
        await enqueue(services)

        async def nobody_waits() -> bool:
            return (await services.pause.status(LOCAL_OPERATOR)).metrics.queued == 1

        first = await claimed(services, requestId="r")
        await services.claims.give_back(first, "its caller is gone")
        await until(nobody_waits)
        again = await claimed(services, requestId="r")
        assert (again.id, again.attempt) == (first.id, 1)


async def test_waiting_claims_under_one_id_share_one_job(database_url: str) -> None:
    async with core(database_url) as (one, _), core(database_url) as (two, _):
        got: list[Job | None] = []

        async def wait(services: Services) -> None:
            got.append((await claim(services, requestId="r", waitSeconds=2)).job)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, one)
            tasks.start_soon(wait, two)

            async def both_wait() -> bool:
                return len(one.waiters) + len(two.waiters) == 2

            await until(both_wait)
            await enqueue(one)
            await enqueue(one)
        assert len({job.id for job in got if job is not None}) == 1
        assert (await one.pause.status(LOCAL_OPERATOR)).metrics.running == 1
