"""MCP clients and servers for the tests: real transports, real services."""

import json
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
import uvicorn
from jsonschema import Draft202012Validator
from mcp import Client, StdioServerParameters, types
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast_core.callers import CALLER_KEY, LOCAL_OPERATOR
from holdfast_core.services import Services
from holdfast_core.settings import load_settings
from holdfast_server.compose import open_services
from holdfast_server.mcp import build_mcp_server, create_mcp_endpoint
from holdfast_server.mcp.speaker import find_speaker

#: The longest that a test waits for anything at all.
PATIENCE = 30


@dataclass
class Tools:
    """A connected client, with calls that check what every answer has to be."""

    client: Client

    async def result(
        self, name: str, arguments: dict[str, Any] | None = None, **more: Any
    ) -> types.CallToolResult:
        with anyio.fail_after(PATIENCE):
            return await self.client.call_tool(name, arguments or {}, **more)

    async def ask(self, name: str, arguments: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """A call that succeeds: its structured answer, which matches the schema and stands as text beside it."""
        result = await self.result(name, arguments, **more)
        (text,) = result.content
        assert isinstance(text, types.TextContent)
        assert not result.is_error, text.text
        answer: dict[str, Any] = result.structured_content
        assert json.loads(text.text) == answer
        schemas = {
            spelling: tool.output_schema
            for tool in (await self.client.list_tools()).tools
            for spelling in (tool.name, tool.name.replace(".", "_"), tool.name.replace("_", ".", 1))
        }
        Draft202012Validator(schemas[name], format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
            answer
        )
        return answer

    async def refused(self, name: str, arguments: dict[str, Any] | None = None) -> str:
        """A call that is answered with a tool error: its text."""
        result = await self.result(name, arguments)
        assert result.is_error, result.structured_content
        assert result.structured_content is None
        (text,) = result.content
        assert isinstance(text, types.TextContent)
        return text.text


class ListeningServer(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @property
    def url(self) -> str:
        (server,) = self.servers
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"


def for_local_operator(app: ASGIApp) -> ASGIApp:
    """What the dashboard does with each request while authentication is disabled."""

    async def calling(scope: Scope, receive: Receive, send: Send) -> None:
        scope[CALLER_KEY] = LOCAL_OPERATOR
        await app(scope, receive, send)

    return calling


class Agents:
    """How to get connected. Settings are named as in the environment, without the prefix, in lower case."""

    def connect(
        self, transport: str, database_url: str, mode: str = "auto", **settings: str
    ) -> AbstractAsyncContextManager[Tools]:
        """A client over the transport of this name."""
        ways = {"stdio": self.over_stdio, "http": self.over_http, "none": self.in_process}
        return ways[transport](database_url, mode, **settings)

    @asynccontextmanager
    async def over_stdio(
        self, database_url: str, mode: str = "auto", **settings: str
    ) -> AsyncGenerator[Tools]:
        """A client of `holdfast mcp`, a child process."""
        server = StdioServerParameters(
            command=sys.executable,
            args=self.command("mcp")[1:],
            env=self.environment(database_url, **settings),
        )
        async with Client(server, mode=mode) as client:
            yield Tools(client)

    @asynccontextmanager
    async def over_http(
        self, database_url: str, mode: str = "auto", query: str = "", **settings: str
    ) -> AsyncGenerator[Tools]:
        """A client of a server on loopback."""
        async with (
            self.http_server(database_url, **settings) as url,
            Client(url + query, mode=mode) as client,
        ):
            yield Tools(client)

    @asynccontextmanager
    async def over_url(self, url: str, mode: str = "auto") -> AsyncGenerator[Tools]:
        """One more client of a server that runs."""
        async with Client(url, mode=mode) as client:
            yield Tools(client)

    @asynccontextmanager
    async def in_process(
        self, database_url: str, mode: str = "auto", **settings: str
    ) -> AsyncGenerator[Tools]:
        """A client without a transport, for what no transport has a part in."""
        loaded = load_settings(database_url=database_url, **settings)
        async with open_services(loaded) as services:
            server = build_mcp_server(lambda: services, loaded, who=await find_speaker(services, loaded))
            async with Client(server, mode=mode) as client:
                yield Tools(client)

    @asynccontextmanager
    async def http_server(self, database_url: str, **settings: str) -> AsyncGenerator[str]:
        """The URL of a real server that has MCP and nothing else."""
        loaded = load_settings(database_url=database_url, **settings)
        opened: list[Services] = []
        endpoint = create_mcp_endpoint(build_mcp_server(lambda: opened[0], loaded), loaded)

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            async with open_services(loaded) as services, endpoint.running():
                opened.append(services)
                yield

        app = Starlette(routes=[Mount("/", for_local_operator(endpoint.app))], lifespan=lifespan)
        config = uvicorn.Config(
            app, port=0, lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = ListeningServer(config)
        ended = anyio.Event()

        async def serve() -> None:
            await server._serve()  # without its signal handlers, which are pytest's business
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            try:
                with anyio.fail_after(PATIENCE):
                    await server.listening.wait()
                yield server.url
            finally:
                server.should_exit = True
                # Also where the test has failed: cut off in its middle, its lifespan would never end.
                with anyio.move_on_after(PATIENCE, shield=True):
                    await ended.wait()

    def command(self, *arguments: str) -> list[str]:
        """`holdfast` with these arguments, from this very environment."""
        return [sys.executable, "-m", "holdfast_worker.cli", *arguments]

    def environment(self, database_url: str, **settings: str) -> dict[str, str]:
        """What such a child process needs."""
        return {"HOLDFAST_DATABASE_URL": database_url} | {
            f"HOLDFAST_{name.upper()}": value for name, value in settings.items()
        }


@pytest.fixture
def agents() -> Agents:
    """Ways to get connected."""
    return Agents()


@pytest.fixture(params=["stdio", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    """The test runs once over each transport."""
    transport: str = request.param
    return transport


@pytest.fixture(params=["auto", "legacy"], ids=["2026-07-28", "2025-11-25"])
def mode(request: pytest.FixtureRequest) -> str:
    """How the client negotiates: the newest protocol, or the handshake of the older ones."""
    mode: str = request.param
    return mode
