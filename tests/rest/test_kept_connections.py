"""Connections that are kept, as a server ends: what is asked on them by then is answered."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from anyio import create_task_group, fail_after, sleep
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from holdfast_server.commands import lean_http
from holdfast_server.commands.lean_http import lean_protocol

pytestmark = pytest.mark.anyio


REQUEST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}"
PATIENCE = 20.0


class SaysHello(PlainTextResponse):
    """As a task of its own."""

    def __init__(self) -> None:
        super().__init__("hello")


class SaysHelloAtOnce(SaysHello):
    """Without one."""

    def may_begin(self, _scope: Scope) -> bool:
        return True

    def begin(self, _scope: Scope, _body: bytes, answer: Callable[[tuple[bytes, bytes]], None]) -> bool:
        answer((b"content-length: 5\r\n", b"hello"))
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("a task was made for it")


@asynccontextmanager
async def serving(hello: PlainTextResponse) -> AsyncGenerator[tuple[uvicorn.Server, int]]:
    """A server that says "hello", and its port; ended with the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    config = uvicorn.Config(hello, lifespan="off", http=lean_protocol(hello), log_config=None)
    server = uvicorn.Server(config)
    with fail_after(PATIENCE):
        async with create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            while not server.started:
                await sleep(0.01)
            try:
                yield server, port
            finally:
                server.should_exit = True


@asynccontextmanager
async def connected(port: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def no_longer_listening(server: uvicorn.Server) -> None:
    while server.servers[0].is_serving():
        await sleep(0.01)


@pytest.mark.parametrize("hello", [SaysHello(), SaysHelloAtOnce()], ids=["by a task", "at once"])
async def test_a_request_that_comes_on_a_kept_connection_as_the_server_ends_is_answered_and_is_the_last(
    monkeypatch: pytest.MonkeyPatch, hello: PlainTextResponse
) -> None:
    monkeypatch.setattr(lean_http, "LINGER_SECONDS", PATIENCE)
    async with serving(hello) as (server, port), connected(port) as (reader, writer):
        writer.write(REQUEST)
        before = await reader.readuntil(b"hello")
        server.should_exit = True
        await no_longer_listening(server)
        writer.write(REQUEST)
        answer = await reader.read()  # to its end
    assert before.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" not in before
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer
    assert answer.endswith(b"hello")


async def test_a_connection_on_which_nothing_comes_does_not_hold_up_the_end() -> None:
    async with (
        serving(SaysHello()) as (server, port),
        connected(port) as (fresh, _),
        connected(port) as (used, writer),
    ):
        writer.write(REQUEST)
        await used.readuntil(b"hello")
        server.should_exit = True
        assert await fresh.read() == b""
        assert await used.read() == b""
