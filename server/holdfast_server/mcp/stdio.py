"""MCP over stdin and stdout.

The SDK's transport reads stdin in a thread that nothing can interrupt: a signal would not end the
process before the client's next line. So lines come through the event loop instead; writing, and
keeping everything else off stdout, stays the SDK's.
"""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import anyio
from mcp.server import Server
from mcp.server.stdio import stdio_server

__all__ = ["MAX_LINE_BYTES", "serve_stdio"]

#: One message: the largest arguments, escaped, with room for the envelope. A longer line is skipped.
MAX_LINE_BYTES: Final = 8 * 1_048_576


async def serve_stdio(server: Server[Any]) -> None:
    """Serve one client on this process's stdin and stdout until stdin closes or a signal asks to end.

    While it runs, whatever else is printed goes to stderr. Calls in flight at the end are cancelled.
    """
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_on_signal, tasks.cancel_scope)
        async with _stdin() as stdin, stdio_server(stdin=stdin) as (received, to_send):
            await server.run(received, to_send, server.create_initialization_options())
        tasks.cancel_scope.cancel()


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return  # a second signal meets its default: it ends the process at once


@asynccontextmanager
async def _stdin() -> AsyncGenerator[anyio.AsyncFile[str] | None]:
    """Stdin as interruptible lines; None, for the SDK's own reader, where it never has to be waited for."""
    descriptor = _waitable_stdin()
    if descriptor is None:
        yield None
        return
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        yield cast("anyio.AsyncFile[str]", _Lines(reader))  # the SDK only iterates over it
    finally:
        transport.close()


def _waitable_stdin() -> int | None:
    """A descriptor of our own for stdin, which the event loop may make non-blocking and close."""
    if sys.platform == "win32":
        return None
    if os.isatty(0):
        # Opened anew: a terminal's descriptors share their flags, and stderr has to stay blocking.
        return os.open(os.ttyname(0), os.O_RDONLY | os.O_NOCTTY)
    mode = os.fstat(0).st_mode
    return os.dup(0) if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


class _Lines:
    """The lines of a stream, as text."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def __aiter__(self) -> AsyncIterator[str]:
        while line := await self._line():
            yield _without_lone_surrogates(line.decode("utf-8", "replace"))

    async def _line(self) -> bytes:
        skipping = False
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                return end.partial
            except asyncio.LimitOverrunError as overrun:
                await self._reader.readexactly(overrun.consumed)
                skipping = True
                continue
            if not skipping:
                return line
            skipping = False


def _without_lone_surrogates(line: str) -> str:
    """Half an emoji, as JavaScript escapes a text that was cut in two, is shown as `?`.

    The SDK drops a message that it cannot parse without an answer, and the client would wait for ever.
    """
    if "\\ud" not in line and "\\uD" not in line:
        return line
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return line
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "replace").decode()
