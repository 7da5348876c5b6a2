"""The change bus: all processes hear of a change, and the loss of the database costs delay, never a listener."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from holdfast_core.changes import ChangeBus, Kind, Subscription, open_bus
from holdfast_core.changes.bus import KINDS, Hub
from holdfast_core.settings import load_settings
from support.core import enqueue, session
from support.proxy import proxy
from support.stores import core

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(url: str) -> AsyncGenerator[tuple[ChangeBus, Subscription]]:
    """A bus that carries, and all that it hears. It has listened at least once."""
    bus = open_bus(load_settings(database_url=url))
    with bus.hub.subscribe(*KINDS) as heard:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.run)
            with anyio.fail_after(10):
                assert await heard.wait(10) == KINDS  # a bus that begins to listen says: look at everything
            yield bus, heard
            tasks.cancel_scope.cancel()


async def hears(heard: Subscription, kind: Kind) -> None:
    """Until this has been heard."""
    with anyio.fail_after(10):
        while kind not in await heard.wait(10):
            pass


async def test_a_subscription_holds_hints_for_a_slow_listener_and_only_those_that_it_wants() -> None:
    hub = Hub()
    with hub.subscribe("system", "jobs") as slow, hub.subscribe("running") as other:
        for _ in range(1000):
            hub.publish("jobs", "running")
        hub.publish("system")
        assert await slow.wait(0) == {"system", "jobs"}
        assert await slow.wait(0) == frozenset()
        assert await other.wait(0) == {"running"}
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(slow.wait, 60)
                await anyio.lowlevel.checkpoint()
                hub.publish("system")


async def test_an_announcement_is_heard_here_at_once_and_in_another_process_soon(
    postgres_database_url: str,
) -> None:
    async with (
        running(postgres_database_url) as (here, heard_here),
        running(postgres_database_url) as (_, there),
    ):
        for kind in ("system", "jobs", "running"):
            here.announce(kind)
            assert await heard_here.wait(0) == {kind}
            await hears(there, kind)
        assert await heard_here.wait(0.05) == frozenset(), "its own announcement came back"


async def test_on_sqlite_another_processs_commit_is_heard(sqlite_url: str) -> None:
    async with core(sqlite_url) as (services, _), running(sqlite_url) as (_, heard):
        await heard.wait(0)
        await enqueue(services)
        await hears(heard, "jobs")


async def test_a_session_lost_with_an_announcement_under_way_is_made_anew_and_the_announcement_goes_out(
    postgres_database_url: str,
) -> None:
    """`run` "survives the loss of the store": it must not end for it, as for a bug."""
    async with (
        proxy(postgres_database_url) as way,
        running(way.url) as (bus, heard),
        running(postgres_database_url) as (_, others),
    ):
        way.freeze()
        bus.announce("running")
        await anyio.wait_all_tasks_blocked()  # it is sent, and is never answered
        await heard.wait(0)
        await way.cut()
        bus.announce("system")
        await heard.wait(0)
        await way.restore()
        with anyio.fail_after(10):
            while await heard.wait(10) != KINDS:  # it listens again, and has missed what there was
                pass
        said: set[str] = set()
        with anyio.fail_after(10):
            while not said >= {"running", "system"}:
                said |= await others.wait(10)


async def test_a_session_that_is_lost_again_and_again_is_made_anew_with_rests_between(
    postgres_database_url: str,
) -> None:
    """As where LISTEN is refused (a standby, some poolers): to connect without a rest would be a storm."""
    ended: set[int] = set()
    async with session(postgres_database_url) as watching, running(postgres_database_url):
        with anyio.move_on_after(1.5):
            while True:
                rows = await watching.fetch(
                    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'holdfast-listen'"
                )
                ended |= {row["pid"] for row in rows}
    assert 2 <= len(ended) <= 16
