"""Subscriptions to `holdfast://system`: each version is announced once and in order, and they end with the client."""

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters, types

from holdfast_core.services import Services
from holdfast_core.settings import load_settings
from holdfast_server.compose import open_services
from holdfast_server.mcp import build_mcp_server, subscriptions
from holdfast_server.mcp.speaker import find_speaker
from holdfast_server.mcp.subscriptions import MAX_SUBSCRIPTIONS_PER_SESSION, VERSION_META_KEY
from holdfast_server.mcp.versions import MAX_VERSIONS_TOLD, SystemVersions

pytestmark = pytest.mark.anyio

SYSTEM = "holdfast://system"
PATIENCE = 30
TOGGLES = 20


@dataclass
class Subscriber:
    """A client that keeps the versions it is told of, in the order in which they come."""

    client: Client
    heard: list[int] = field(default_factory=list)

    async def heard_of(self, version: int) -> None:
        """Wait until that version has been announced."""
        with anyio.fail_after(PATIENCE):
            while version not in self.heard:
                await anyio.sleep(0.01)

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        with anyio.fail_after(PATIENCE):
            result = await self.client.call_tool(name, arguments)
        assert not result.is_error, result.content
        answer: dict[str, Any] = result.structured_content
        return answer

    async def toggle(self) -> int:
        """The other state, and its version."""
        now = (await self.call("system.status", {}))["system"]
        if now["workersPaused"]:
            answer = await self.call("system.resume", {"reason": "on"})
        else:
            answer = await self.call("system.pause", {"mode": "drain", "reason": "off"})
        version: int = answer["system"]["version"]
        assert version == now["version"] + 1
        return version

    async def read(self) -> dict[str, Any]:
        (content,) = (await self.client.read_resource(SYSTEM, cache_mode="bypass")).contents
        system: dict[str, Any] = json.loads(content.text)["system"]
        return system


@asynccontextmanager
async def connected(server: Any, mode: str) -> AsyncGenerator[Subscriber]:
    """A client that is not subscribed yet."""
    heard: list[int] = []

    async def hear(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            assert message.params.uri == SYSTEM
            heard.append(message.params.meta[VERSION_META_KEY])

    async with Client(server, mode=mode, message_handler=hear) as client:
        yield Subscriber(client, heard)


@asynccontextmanager
async def subscribed(subscriber: Subscriber, *, ends: bool = True) -> AsyncGenerator[Subscriber]:
    """Subscribed in the way of the protocol that was negotiated, until the block ends or the client goes."""
    if subscriber.client.protocol_version >= "2026":
        async with subscriber.client.listen(resource_subscriptions=[SYSTEM]) as listening:
            assert listening.honored.resource_subscriptions == [SYSTEM]
            yield subscriber
        return
    await subscribe(subscriber)
    # Announcements come on a stream of their own, which this client opens when it likes: until the first.
    version = await subscriber.toggle()
    while version not in subscriber.heard:
        with anyio.move_on_after(0.5):
            await subscriber.heard_of(version)
            break
        version = await subscriber.toggle()
    subscriber.heard.clear()
    yield subscriber
    if ends:
        await unsubscribe(subscriber)


async def subscribe(subscriber: Subscriber, uri: str = SYSTEM) -> None:
    request = types.SubscribeRequest(params=types.SubscribeRequestParams(uri=uri))
    await subscriber.client.session.send_request(request, types.EmptyResult)


async def unsubscribe(subscriber: Subscriber, uri: str = SYSTEM) -> None:
    request = types.UnsubscribeRequest(params=types.UnsubscribeRequestParams(uri=uri))
    await subscriber.client.session.send_request(request, types.EmptyResult)


@asynccontextmanager
async def server_over(agents: Any, transport: str, database_url: str) -> AsyncGenerator[Any]:
    """What a client connects to: a URL, or a command."""
    if transport == "http":
        async with agents.http_server(database_url) as url:
            yield url
        return
    yield StdioServerParameters(
        command=sys.executable, args=agents.command("mcp")[1:], env=agents.environment(database_url)
    )


@pytest.mark.requirement("FR-001")
async def test_each_version_is_announced_once_and_in_order(
    agents: Any, transport: str, mode: str, database_url: str
) -> None:
    async with (
        server_over(agents, transport, database_url) as server,
        connected(server, mode) as client,
        subscribed(client),
    ):
        first = (await client.read())["version"] + 1
        for _ in range(TOGGLES):
            last = await client.toggle()
        await client.heard_of(last)
        assert client.heard == list(range(first, first + TOGGLES))
        assert (await client.read())["version"] == last


async def test_a_change_made_in_another_process_is_announced(
    agents: Any, mode: str, database_url: str
) -> None:
    async with (
        server_over(agents, "http", database_url) as server,
        connected(server, mode) as client,
        subscribed(client),
        agents.over_stdio(database_url) as other,
    ):
        version = (await client.read())["version"] + 1
        paused = (await client.read())["workersPaused"]
        pause = ("system.pause", {"mode": "quiesce", "reason": "elsewhere"})
        await other.ask(*(("system.resume", {"reason": "elsewhere"}) if paused else pause))
        await client.heard_of(version)
        assert client.heard == [version]


async def test_after_a_cut_a_new_subscriber_reads_what_it_missed_and_hears_what_comes(
    agents: Any, mode: str, database_url: str
) -> None:
    async with agents.http_server(database_url) as url:
        async with connected(url, mode) as client, subscribed(client):
            await client.heard_of(await client.toggle())
        async with connected(url, mode) as away:
            missed = [await away.toggle() for _ in range(3)]
        async with connected(url, mode) as back, subscribed(back):
            assert (await back.read())["version"] >= missed[-1]
            assert not set(missed) & set(back.heard)
            version = await back.toggle()
            await back.heard_of(version)
            assert back.heard == [version]


async def test_one_who_has_unsubscribed_hears_nothing_more(agents: Any, sqlite_url: str) -> None:
    async with (
        agents.http_server(sqlite_url) as url,
        connected(url, "legacy") as client,
        connected(url, "auto") as witness,
        subscribed(witness),
    ):
        async with subscribed(client):
            await subscribe(client)  # a second time changes nothing
            version = await client.toggle()
            await client.heard_of(version)
            await witness.heard_of(version)
            assert client.heard == [version]
        await unsubscribe(client)  # so does this
        await witness.heard_of(await client.toggle())
        assert client.heard == [version]


@pytest.mark.parametrize(
    "uri", ["holdfast://playbook", "holdfast://jobs/0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90", "x:y"]
)
async def test_what_never_changes_or_is_not_there_cannot_be_subscribed_to(
    agents: Any, sqlite_url: str, uri: str
) -> None:
    async with agents.http_server(sqlite_url) as url:
        async with connected(url, "legacy") as client:
            with pytest.raises(MCPError, match="cannot be subscribed to") as error:
                await subscribe(client, uri)
            assert error.value.code == -32602
            await subscribe(client)  # the refusal has left nothing behind
        async with connected(url, "auto") as modern:
            async with modern.client.listen(resource_subscriptions=[uri, SYSTEM]) as listening:
                assert listening.honored.resource_subscriptions == [SYSTEM]
            async with modern.client.listen(
                resource_subscriptions=[uri], tools_list_changed=True
            ) as listening:
                assert not listening.honored.resource_subscriptions
                assert not listening.honored.tools_list_changed


async def test_one_client_on_stdio_cannot_hold_more_than_the_bound(agents: Any, sqlite_url: str) -> None:
    async with (
        server_over(agents, "stdio", sqlite_url) as server,
        connected(server, "auto") as client,
    ):
        async with anyio.create_task_group() as tasks:
            held = anyio.Semaphore(0)

            async def hold() -> None:
                async with client.client.listen(resource_subscriptions=[SYSTEM]):
                    held.release()
                    await anyio.sleep_forever()

            for _ in range(MAX_SUBSCRIPTIONS_PER_SESSION):
                tasks.start_soon(hold)
            with anyio.fail_after(PATIENCE):
                for _ in range(MAX_SUBSCRIPTIONS_PER_SESSION):
                    await held.acquire()
            with pytest.raises(MCPError, match="subscriptions already"):
                async with client.client.listen(resource_subscriptions=[SYSTEM]):
                    pass
            tasks.cancel_scope.cancel()
        # They end with their requests, so there is room again.
        with anyio.fail_after(PATIENCE):
            while True:
                try:
                    async with client.client.listen(resource_subscriptions=[SYSTEM]):
                        break
                except MCPError:
                    await anyio.sleep(0.01)


async def test_nothing_is_left_of_a_subscription_whose_client_has_gone(
    agents: Any, mode: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live: list[Any] = []
    made = subscriptions.Running.__init__

    def remembered(self: Any, *arguments: Any) -> None:
        made(self, *arguments)
        live.append(self)

    monkeypatch.setattr(subscriptions.Running, "__init__", remembered)
    async with agents.http_server(sqlite_url) as url:
        async with connected(url, mode) as client, subscribed(client, ends=False):
            assert sum(one.open for one in live) == 1
        with anyio.fail_after(PATIENCE):
            while any(one.open for one in live) or any(one.source._listeners for one in live):
                await anyio.sleep(0.01)


async def test_a_subscriber_far_behind_is_told_of_the_newest_versions_only(sqlite_url: str) -> None:
    async with (
        open_services(load_settings(database_url=sqlite_url)) as services,
        anyio.create_task_group() as tasks,
    ):
        versions = SystemVersions(lambda: services, tasks)
        async with versions.open(frozenset({SYSTEM})) as updates:
            assert updates.version == 1
            versions._learn(10_000)
            assert (await updates.next()).version == 10_000 - MAX_VERSIONS_TOLD + 1
            told = [(await updates.next()).version for _ in range(MAX_VERSIONS_TOLD - 1)]
            assert told[-1] == 10_000
            versions._learn(7)  # a database that was put back to an older state
            assert (await updates.next()).version == 7
        tasks.cancel_scope.cancel()


async def test_a_subscription_is_refused_while_the_store_cannot_be_read(
    agents: Any, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast_core.errors import StoreUnavailable
    from holdfast_core.services.watch import PauseWatch

    settings = load_settings(database_url=sqlite_url)
    opened: list[Services] = []
    async with open_services(settings) as services:
        opened.append(services)
        who = await find_speaker(services, settings)
        async with connected(build_mcp_server(lambda: services, settings, who=who), "legacy") as client:

            async def away(_: Any) -> None:
                raise StoreUnavailable("The database does not answer.")

            with monkeypatch.context() as broken:
                broken.setattr(PauseWatch, "refresh", away)
                with pytest.raises(MCPError, match=r"^\[store_unavailable\]"):
                    await subscribe(client)
            await subscribe(client)
            await client.heard_of(await client.toggle())
