"""One request and its answer on one connection, which ends with it.

Sizes and times are bounded: 64 KiB of headers and as much of a body, ten seconds for both together, and as long for the
answer to be taken.
"""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import h11
from anyio import BrokenResourceError, EndOfStream, fail_after, move_on_after
from anyio.abc import SocketStream

from holdfast_core.errors import BodyTooLarge, HoldfastError
from holdfast_core.schemas import Answer as AnswerModel
from holdfast_core.schemas import Problem
from holdfast_worker.runtime.control.errors import MalformedRequest, RequestTooSlow

__all__ = ["MAX_BYTES", "REQUEST_SECONDS", "Answer", "Exchange", "Request"]

#: Of the headers together, and of a body.
MAX_BYTES: Final = 65_536
REQUEST_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 10.0
#: What a client may still be sending when it is refused: it is read past, so that the answer is not lost.
LINGER_SECONDS: Final = 1.0
LINGER_BYTES: Final = 4 * MAX_BYTES
READ_BYTES: Final = 16_384

_SECURITY: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Request:
    """What is asked; the body is read when it is wanted."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """The values of a header, by its name in small letters."""
        return [value.strip() for key, value in self.headers if key == name]

    @property
    def has_body(self) -> bool:
        """Whether a body comes along."""
        return bool(self.all("transfer-encoding")) or self.all("content-length") not in ([], ["0"])


@dataclass(frozen=True)
class Answer:
    """What is answered."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, model: AnswerModel) -> "Answer":
        """A model as JSON."""
        return cls(model.model_dump_json().encode())

    @classmethod
    def of_object(cls, content: Mapping[str, Any]) -> "Answer":
        """A plain object as JSON."""
        return cls(json.dumps(content).encode())

    @classmethod
    def of_error(cls, error: HoldfastError) -> "Answer":
        """A failure in the one error shape."""
        headers: dict[str, str] = {}
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        if error.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        body = Problem.of(error).model_dump_json().encode()
        return cls(body, "application/problem+json", error.status, headers)


class Exchange:
    """A connection, from its first byte to its end."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_BYTES)
        self._whole = False
        self._heard = False
        self._head = False

    async def request(self) -> Request | None:
        """The request without its body; None where nobody asks anything. Raises HoldfastErrors."""
        with _understood():
            event = await self._next()
        if isinstance(event, h11.ConnectionClosed):
            return None
        assert isinstance(event, h11.Request)
        self._head = event.method == b"HEAD"
        headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
        target = event.target.decode("latin-1")
        return Request(event.method.decode("ascii"), target.partition("?")[0], headers)

    async def body(self) -> bytes:
        """The request's body. Raises BodyTooLarge, and what `request` raises."""
        content = b""
        with _understood():
            while not isinstance(event := await self._next(), h11.EndOfMessage):
                if isinstance(event, h11.ConnectionClosed):
                    raise EndOfStream
                assert isinstance(event, h11.Data)
                content += event.data
                if len(content) > MAX_BYTES:
                    raise BodyTooLarge(
                        f"The body is larger than {MAX_BYTES} bytes, which is all that is taken here."
                    )
        self._whole = True
        return content

    async def answer(self, answer: Answer) -> None:
        """Send it, and end the connection."""
        reason = HTTPStatus(answer.status).phrase
        headers = {
            **_SECURITY,
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            "Connection": "close",
            **answer.headers,
        }
        sent = self._http.send(
            h11.Response(status_code=answer.status, headers=list(headers.items()), reason=reason)
        )
        for part in () if self._head else (h11.Data(data=answer.body), h11.EndOfMessage()):
            sent = (sent or b"") + (self._http.send(part) or b"")
        with fail_after(ANSWER_SECONDS):
            await self._stream.send(sent or b"")
            await self._stream.send_eof()
        if not self._whole:
            await self._linger()

    async def gone(self) -> None:
        """Wait until the client has given up."""
        try:
            while True:
                await self._stream.receive(READ_BYTES)
        except (EndOfStream, BrokenResourceError):
            return

    def too_slow(self) -> RequestTooSlow | None:
        """The refusal, where something of a request has come; None where the connection was only opened."""
        if not self._heard:
            return None
        return RequestTooSlow(f"The request did not come to its end within {REQUEST_SECONDS:g} s.")

    async def _next(self) -> h11.Event | type[h11.ConnectionClosed]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                interim = self._http.send(h11.InformationalResponse(status_code=100, headers=[]))
                await self._stream.send(interim or b"")
            try:
                data = await self._stream.receive(READ_BYTES)
            except EndOfStream:
                data = b""
            self._heard = self._heard or bool(data)
            self._http.receive_data(data)
        assert not isinstance(event, type), "h11 pauses only between two requests, and there is one"
        return event

    async def _linger(self) -> None:
        left = LINGER_BYTES
        with move_on_after(LINGER_SECONDS):
            try:
                while left > 0:
                    left -= len(await self._stream.receive(READ_BYTES))
            except (EndOfStream, BrokenResourceError):
                return


@contextmanager
def _understood() -> Generator[None]:
    """What h11 cannot read, as a refusal."""
    try:
        yield
    except h11.RemoteProtocolError as error:
        raise MalformedRequest(f"This port speaks HTTP/1.1 with short headers: {error}.") from None
