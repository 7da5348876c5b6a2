"""Speaks to the `/mcp` of a Holdfast server elsewhere.

In the protocol of 2026-07-28 whatever our own client speaks: each request stands for itself, so there is no
session that a restart of the server could lose. On httpx2 and not on the SDK's client, which does not tell a
refused token from a crash, and ends altogether where a connection is refused.
"""

import json
import os
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import count
from typing import Any, Final, NoReturn, Self, cast
from urllib.parse import urlsplit

import httpx2
from mcp import MCPError, types
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
)
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY
from mcp_types.version import LATEST_MODERN_VERSION
from pydantic import ValidationError

from holdfast_core import __version__
from holdfast_core.errors import ConfigurationError
from holdfast_core.schemas import Problem

__all__ = ["MAX_ANSWER_BYTES", "Frame", "Upstream", "UpstreamFailed"]

CONNECT_SECONDS: Final = 5.0
#: Silence for longer is taken for a loss. The longest silent call waits 25 s (queue.claim); a stream pings.
SILENCE_SECONDS: Final = 75.0
#: The largest answer that is taken in: a page of jobs with large payloads.
MAX_ANSWER_BYTES: Final = 64 * 1_048_576
#: Calls and subscriptions in flight at a time; more wait.
MAX_CONNECTIONS: Final = 64
#: Idle connections are dropped before the server (after 30 s) drops them under a request of ours.
_KEEPALIVE_SECONDS: Final = 10.0
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

#: A notification or the result of a request, as it came.
Frame = dict[str, Any]


class UpstreamFailed(Exception):
    """There is no answer of the server's own. The text begins with a code and says what to do."""


class Upstream:
    """One server. To be entered; may be away and come back while it is."""

    def __init__(self, endpoint: str, token: str) -> None:
        self.shown = urlsplit(endpoint)._replace(query="").geturl()
        self._endpoint = endpoint
        self._ids = count(1)
        host = urlsplit(endpoint).hostname
        plain = host in _LOOPBACK and endpoint.startswith("http:")
        headers = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "user-agent": f"holdfast/{__version__}",
            MCP_PROTOCOL_VERSION_HEADER: LATEST_MODERN_VERSION,
        }
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._http = httpx2.AsyncClient(
            headers=headers,
            # A proxy from the environment is for the world outside, never for this very host.
            trust_env=host not in _LOOPBACK,
            # Reading the system's certificates takes longer than all else here; without TLS none are needed.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else _trusted(),
            timeout=httpx2.Timeout(CONNECT_SECONDS, read=SILENCE_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=_KEEPALIVE_SECONDS),
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        client: Mapping[str, Any] | None = None,
        on_notification: Callable[[Frame], Awaitable[None]] | None = None,
    ) -> dict[str, Any]:
        """The result of one request. `client` says who asks; what comes on the way goes to `on_notification`.

        Raises MCPError with the server's own error, or UpstreamFailed. To cancel it is to close its connection,
        by which the server ends the call.
        """
        async with self.stream(method, params, client=client) as frames:
            async for frame in frames:
                if "method" not in frame:
                    return _result(frame)
                if on_notification is not None:
                    await on_notification(frame)
        raise UpstreamFailed(self._broken())

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        client: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[AsyncGenerator[Frame]]:
        """Send one request; its notifications and at last its result, as they come. Raises UpstreamFailed."""
        body, headers = self._request(method, params, client)
        async with AsyncExitStack() as held:
            opening = self._http.stream("POST", self._endpoint, content=body, headers=headers)
            try:
                response = await held.enter_async_context(opening)
            except httpx2.TransportError as error:
                raise UpstreamFailed(self._reason(error, sent=False)) from error
            yield await held.enter_async_context(aclosing(self._frames(response)))

    def _request(
        self, method: str, params: Mapping[str, Any] | None, client: Mapping[str, Any] | None
    ) -> tuple[bytes, dict[str, str]]:
        params = dict(params or {})
        params["_meta"] = {
            **(params.get("_meta") or {}),
            PROTOCOL_VERSION_META_KEY: LATEST_MODERN_VERSION,
            CLIENT_INFO_META_KEY: client or {"name": "holdfast", "version": __version__},
            CLIENT_CAPABILITIES_META_KEY: {},
        }
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        headers = {MCP_METHOD_HEADER: method}
        if method in NAME_BEARING_METHODS:
            headers[MCP_NAME_HEADER] = encode_header_value(str(params.get(NAME_BEARING_METHODS[method], "")))
        return json.dumps(message).encode(), headers

    async def _frames(self, response: httpx2.Response) -> AsyncGenerator[Frame]:
        try:
            if response.status_code == 200 and _is_stream(response):
                events = aiter(httpx2.EventSource(response, max_event_size=MAX_ANSWER_BYTES))
                async for event in events:
                    if event.event == "message" and event.data:
                        yield _frame(event.data) or self._fail(self._stranger("a stream that is not MCP"))
            else:
                body = await self._body(response)
                yield _frame(body) or self._fail(self._refusal(response.status_code, body))
        except httpx2.TransportError as error:
            raise UpstreamFailed(self._reason(error, sent=True)) from error

    async def _body(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise UpstreamFailed(
                    f"[body_too_large] The answer is larger than {MAX_ANSWER_BYTES:,} bytes. Ask for less at a time,"
                    " with limit."
                )
        return bytes(body)

    # What went wrong, and the way out

    def _reason(self, error: httpx2.TransportError, *, sent: bool) -> str:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            return (
                f"[untrusted_server] The certificate of {self.shown} is not trusted: {cause.verify_message}. Nothing"
                " was sent. If a CA of your own signed it, start `holdfast mcp` with SSL_CERT_FILE naming it."
            )
        if not sent and isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
            return (
                f"[server_unreachable] The Holdfast server at {self.shown} cannot be reached:"
                f" {str(error) or 'no answer in time'}. Nothing was done. Ask for it to be started"
                " (`holdfast serve`), then call again; this connection need not be restarted."
            )
        return self._broken()

    def _broken(self) -> str:
        return (
            f"[server_unreachable] The connection to {self.shown} broke before the answer. It may have been carried"
            " out or not: read the status or the job before a repeat."
        )

    def _stranger(self, said: str) -> str:
        return f"[unexpected_answer] {self.shown} answers with {said}. Is a Holdfast server there? Correct --url."

    def _fail(self, text: str) -> NoReturn:
        raise UpstreamFailed(text)

    def _refusal(self, status: int, body: bytes) -> str:
        try:
            problem = Problem.model_validate_json(body)
            said = f"[{problem.code}] {problem.detail}"
        except ValidationError:
            match status:
                case 401:
                    said = f"[not_authenticated] {self.shown} does not know who is asking."
                case 403:
                    said = f"[not_allowed] {self.shown} does not admit this."
                case 413:
                    return "[body_too_large] The server takes no request of this size. Nothing was changed. Send less."
                case 421:
                    return (
                        f"[misdirected_request] The server does not answer for the name in {self.shown}. Give"
                        " --url a name of its own, or add this one to its HOLDFAST_ALLOWED_HOSTS."
                    )
                case 502 | 503 | 504:
                    return (
                        f"[server_unreachable] {self.shown} answers with status {status}: the server behind it is away"
                        " or full. Wait a little, then call again."
                    )
                case _:
                    return self._stranger(f"status {status}")
        match status:
            case 401:
                return f"{said} Set HOLDFAST_TOKEN to a valid token where `holdfast mcp` is started."
            case 403:
                return f"{said} HOLDFAST_TOKEN has to be a token whose role admits it."
            case _:
                return said


def _is_stream(response: httpx2.Response) -> bool:
    return response.headers.get("content-type", "").startswith("text/event-stream")


def _frame(text: str | bytes) -> Frame | None:
    """A message of the protocol, or None: then it is somebody else's."""
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("Frame", frame) if isinstance(frame, dict) and "jsonrpc" in frame else None


def _result(frame: Frame) -> dict[str, Any]:
    error = frame.get("error")
    if error is not None:
        try:
            raise MCPError.from_error_data(types.ErrorData.model_validate(error))
        except ValidationError:
            raise UpstreamFailed("[unexpected_answer] The server's error could not be read.") from None
    result = frame.get("result")
    if not isinstance(result, dict):
        raise UpstreamFailed("[unexpected_answer] The server's answer could not be read.")
    return cast("dict[str, Any]", result)


def _trusted() -> ssl.SSLContext:
    """The system's CAs, or the ones that SSL_CERT_FILE or SSL_CERT_DIR names. Raises ConfigurationError."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        named = next(
            (name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "this system"
        )
        raise ConfigurationError(f"The certificates of {named} cannot be read: {error}.") from None
