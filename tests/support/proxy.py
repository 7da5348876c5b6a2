"""A way to a server that can be cut or stalled: what a client sees when its network or its server is gone."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Self
from urllib.parse import urlsplit

from holdfast_core.db.postgres import plain_url
from support.ports import lasting_port

__all__ = ["Proxy", "proxy"]


class Proxy:
    """Passes bytes on to the server of `url`, until it is cut. It listens on `host`."""

    def __init__(self, url: str, host: str = "127.0.0.1") -> None:
        self._parts = urlsplit(plain_url(url))
        self._host = host
        self._server: asyncio.Server | None = None
        self._port = lasting_port()
        self._sessions: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    @property
    def url(self) -> str:
        """The server, by this way."""
        user, at, _ = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{user}{at}{self._host}:{self._port}").geturl()

    async def restore(self) -> Self:
        """Take connections, on the same port as before."""
        self._flows.set()
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        return self

    async def cut(self) -> None:
        """End all sessions and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for session in self._sessions:
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        await self._server.wait_closed()

    def freeze(self) -> None:
        """Hold up what is sent from now on, both ways: the network is cut, and nobody is told."""
        self._flows.clear()

    def thaw(self) -> None:
        """Let pass what was held up, and all that comes."""
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.current_task()
        assert session is not None
        self._sessions.add(session)
        try:
            there, back = await asyncio.open_connection(self._parts.hostname, self._parts.port or 5432)
            try:
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(self._pass_on(reader, back))
                    ways.create_task(self._pass_on(there, writer))
            finally:
                back.transport.abort()
        except asyncio.CancelledError:
            pass  # cut: asyncio.Server asks for this task's result, and cancelled is not one
        except OSError:
            pass  # the server is not there, as the client is about to see
        finally:
            writer.transport.abort()
            self._sessions.discard(session)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._flows.wait()
                if writer.transport.is_closing():  # by the other way, meanwhile
                    return
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextlib.asynccontextmanager
async def proxy(url: str) -> AsyncGenerator[Proxy]:
    """A way to the database at `url`, open until it is cut."""
    way = await Proxy(url).restore()
    try:
        yield way
    finally:
        await way.cut()
