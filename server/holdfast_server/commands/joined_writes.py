"""uvicorn's HTTP protocol, with the head of an answer and its body sent by one call of the system.

uvicorn writes them one after the other, and uvloop sends each write at once: two calls of the system and two packets
for every answer, the dearest thing that is done for one. So the first write is kept until the second comes, or until
the event loop's turn ends: what is streamed waits for nothing.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["JoiningProtocol"]


class _Joining(asyncio.Transport):
    """A transport with what uvicorn's HTTP protocol asks of one."""

    def __init__(self, transport: asyncio.Transport, call_soon: Callable[[Callable[[], None]], Any]) -> None:
        super().__init__()
        self.plain = transport
        self._call_soon = call_soon
        self._kept: bytes | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it, or send it with what is kept."""
        if self._kept is None:
            self._kept = bytes(data)
            self._call_soon(self._send_kept)
        else:
            self.plain.write(self._kept + data)
            self._kept = None

    def _send_kept(self) -> None:
        if self._kept is not None:
            self.plain.write(self._kept)
            self._kept = None

    def close(self) -> None:
        """Send what is kept, then close."""
        self._send_kept()
        self.plain.close()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self.plain.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection."""
        return self.plain.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Take in no more for now."""
        self.plain.pause_reading()

    def resume_reading(self) -> None:
        """Take in more again."""
        self.plain.resume_reading()


class JoiningProtocol(HttpToolsProtocol):
    """uvicorn's, over a transport that joins writes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joining(transport, self.loop.call_soon))

    def handle_websocket_upgrade(self) -> None:
        assert isinstance(self.transport, _Joining)
        self.transport = self.transport.plain  # a frame is one write
        super().handle_websocket_upgrade()
