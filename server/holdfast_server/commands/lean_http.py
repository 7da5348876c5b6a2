"""uvicorn's HTTP protocol, with less done for each answer.

The head of an answer and its body are sent by one call of the system. uvicorn writes them one after the other, and
uvloop sends each write at once: two calls of the system and two packets for every answer, the dearest thing that is
done for one. So the first write is kept until the second comes, or until the event loop's turn ends: what is streamed
waits for nothing.

A request that the app can begin without a task gets none: a task with its queues costs as much as all else that is
done for one. So where the app says that it may, a small request is held until it is there as a whole, which it mostly
is when its head has been read; what the app does not begin then goes the usual way.

A server that ends does not close idle connections at once: a client may be sending its next request that very moment,
and would have to guess whether that was carried out. Each is answered one request more, or closed a little later.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

__all__ = ["LINGER_SECONDS", "lean_protocol"]

#: How long a server that ends waits for the request that may be on its way on an idle connection.
LINGER_SECONDS: Final = 0.3


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

    def send(self, data: bytes) -> None:
        """Send what is whole, behind what is kept."""
        self._send_kept()
        self.plain.write(data)

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


#: Larger bodies are never held: uvicorn would stop reading before they are there.
_SMALL: Final = 16_384
_OK: Final = STATUS_LINE[200]
_CLOSE: Final = b"connection: close\r\n"

#: The header fields of a good answer as they go over the wire, and its body. None where the app has to be called.
Wire = tuple[bytes, bytes] | None
#: From the scope, the body, and what to call with the answer, now or later: whether it will be.
Begin = Callable[[Any, bytes, Callable[[Wire], None]], bool]


def _no(_scope: Any) -> bool:
    return False


def _never(_scope: Any, _body: bytes, _answer: Callable[[Wire], None]) -> bool:
    return False


def lean_protocol(app: object) -> type[HttpToolsProtocol]:
    """The protocol for an app, which is asked to begin what it can without a task (`may_begin`, `begin`)."""

    class Protocol(_LeanProtocol):
        may_begin = staticmethod(getattr(app, "may_begin", _no))
        begin = staticmethod(getattr(app, "begin", _never))

    return Protocol


class _LeanProtocol(HttpToolsProtocol):
    """uvicorn's, over a transport that joins writes, with requests that need no task."""

    may_begin: Callable[[Any], bool]
    begin: Begin
    _held: tuple[RequestResponseCycle, Any] | None = None
    _is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joining(transport, self.loop.call_soon))

    def handle_websocket_upgrade(self) -> None:
        assert isinstance(self.transport, _Joining)
        self.transport = self.transport.plain  # a frame is one write
        super().handle_websocket_upgrade()

    def shutdown(self) -> None:
        """The server ends: what is asked for now is the last that is answered on this connection."""
        self._is_ending = True
        if self._is_idle():
            self.loop.call_later(LINGER_SECONDS, self._close_if_idle)
        else:
            super().shutdown()

    def _is_idle(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # none before the first request
        return cycle is None or cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._is_ending:
            cycle.keep_alive = False
        # One that has stood behind another is there as a whole already: it goes the usual way.
        is_coming = cycle.more_body and not cycle.waiting_for_100_continue
        if is_coming and self.may_begin(cycle.scope) and _is_small(cycle.scope["headers"]):
            self._held = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._held is None:
            return
        cycle, app = self._held
        self._held = None
        can_answer = not (self.flow.write_paused or self.transport.is_closing())
        if not (can_answer and self.begin(cycle.scope, bytes(cycle.body), partial(self._answer, cycle, app))):
            super()._start_asgi_task(cycle, app)

    def _answer(self, cycle: RequestResponseCycle, app: Any, answer: Wire) -> None:
        if answer is None:
            super()._start_asgi_task(cycle, app)
        elif not (cycle.disconnected or self.transport.is_closing()):
            self._send(cycle, *answer)

    def _send(self, cycle: RequestResponseCycle, lines: bytes, body: bytes) -> None:
        parts = [_OK, *(b"%s: %s\r\n" % field for field in cycle.default_headers), lines]
        if not cycle.keep_alive:
            parts.append(_CLOSE)
        parts += (b"\r\n", body)
        cycle.response_started = cycle.response_complete = True
        assert isinstance(self.transport, _Joining)
        self.transport.send(b"".join(parts))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


def _is_small(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    for name, value in headers:
        if name == b"content-length":
            return len(value) <= 5 and int(value) <= _SMALL
    return False
