"""The calls that busy workers make, answered with fewer steps than the SDK takes.

A call of the newest protocol to a tool that answers at once is one POST that stands for itself. The SDK builds a
connection, a session and a context for each, and turns its answer from model to dict to model several times, which
costs more than the call. So such a call is read and checked here, by the SDK's own functions and with nothing left out,
and its answer's JSON, made once, is put into the frame that the SDK would put it into.

Whatever is not exactly such a call, or is wrong in any way, is passed on to the SDK, which answers all others, and
says what is wrong; up to there nothing has been done.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from mcp import types
from mcp.server import Server
from mcp.server.streamable_http import check_accept_headers
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    classify_inbound_request,
)
from mcp_types import SERVER_INFO_META_KEY, methods
from mcp_types.version import LATEST_MODERN_VERSION
from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from holdfast_core.callers import SCOPE_KEY
from holdfast_core.errors import NotAllowed
from holdfast_server.mcp.calls import Asked, Calls
from holdfast_server.mcp.catalog import NameStyle
from holdfast_server.mcp.tool import Tool

__all__ = ["PlainCalls", "arguments_of"]

#: Forms of Host and Accept that are kept in mind: clients send the same ones again and again.
REMEMBERED: Final = 128

_METHOD: Final = "tools/call"
_VERSION: Final = LATEST_MODERN_VERSION
#: What `takes` has seen in the head of a request, but for the tool's name.
_HEAD: Final = {MCP_PROTOCOL_VERSION_HEADER: _VERSION, MCP_METHOD_HEADER: _METHOD}
_IS_JSON: Final = (b"content-type", b"application/json")


async def _no_progress(progress: float, total: float | None = None, message: str | None = None) -> None:
    """An answer in one piece has nowhere to put it."""


@lru_cache(REMEMBERED)
def _takes_json(accept: bytes) -> bool:
    return check_accept_headers(Request({"type": "http", "headers": [(b"accept", accept)]}))[0]


class PlainCalls:
    """Answers the calls of one server that are plain. `hosts`: the names by which it is known, without ports."""

    def __init__(
        self, calls: Calls, server: Server[Any], style: NameStyle, hosts: frozenset[str], max_body_bytes: int
    ) -> None:
        self._calls = calls
        self._server = server
        self._style: NameStyle = style
        self._hosts = hosts
        self._max_body_bytes = max_body_bytes
        self._frame = self._framed()
        self._is_known: Callable[[bytes], bool] = lru_cache(REMEMBERED)(self._knows)

    def takes(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        """Whether it is one, as far as its head tells. `headers`: each name once, with its last value."""
        get = headers.get
        length = get(b"content-length", b"")
        return (
            scope["method"] == "POST"
            and get(b"mcp-protocol-version") == _VERSION.encode()
            and get(b"mcp-method") == _METHOD.encode()
            and len(headers) == len(scope["headers"])  # none came twice
            and get(b"content-type", b"").startswith(b"application/json")
            and length.isdigit()
            and int(length) <= self._max_body_bytes
            and b"transfer-encoding" not in headers
            and b"origin" not in headers
            and not scope["query_string"]
            and self._is_known(get(b"host", b""))
            and _takes_json(get(b"accept", b""))
            # They matter to tools that ask for them in their schemas, which ours do not.
            and not any(name.startswith(b"mcp-param-") for name in headers)
        )

    def read(self, name: str, body: bytes) -> types.JSONRPCRequest | None:
        """The call in the body of a request that `takes` has taken and whose head names this tool; None where the SDK
        has something to say about it."""
        try:
            decoded = from_json(body)
            request = types.JSONRPCRequest.model_validate(decoded)
            verdict = classify_inbound_request(decoded, headers={**_HEAD, MCP_NAME_HEADER: name})
            if isinstance(verdict, InboundLadderRejection):
                return None
            methods.validate_client_request(_METHOD, _VERSION, request.params)
        except ValueError:  # pydantic's as well
            return None
        return request

    async def answer(
        self, tool: Tool[Any], request: types.JSONRPCRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer what `read` has read. `receive`: what comes after the body."""
        asked = Asked(scope, receive, _VERSION, self._style, _no_progress)
        result = await self._calls.result(tool, arguments_of(request), asked)
        status = 200
        if isinstance(result, str):
            first, second, third, last = self._frame
            parts = (first, to_json(request.id), second, to_json(result), third, result.encode(), last)
            answer = b"".join(parts)
        elif isinstance(result, types.CallToolResult):
            answer = to_json({"jsonrpc": "2.0", "id": request.id, "result": self._shaped(result)})
        else:
            status = NotAllowed.status if SCOPE_KEY in scope else ERROR_CODE_HTTP_STATUS.get(result.code, 200)
            told = types.JSONRPCError(jsonrpc="2.0", id=request.id, error=result)
            answer = told.model_dump_json(by_alias=True, exclude_none=True).encode()
        headers = [_IS_JSON, (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _knows(self, host: bytes) -> bool:
        name = host.decode("latin-1").lower()
        return name in self._hosts or name.rpartition(":")[0] in self._hosts

    def _shaped(self, result: types.CallToolResult) -> dict[str, Any]:
        dumped = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        shaped = methods.serialize_server_result(_METHOD, _VERSION, dumped)
        return {**shaped, "_meta": {SERVER_INFO_META_KEY: self._server.server_info_stamp}}

    def _framed(self) -> list[bytes]:
        """An answer as the SDK shapes it, without what differs: before its id, its text, its content, and the end."""
        number, text, content = "<id>", "<text>", {"<content>": None}
        result = types.CallToolResult(
            content=[types.TextContent(type="text", text=text)], structured_content=content
        )
        rest = json.dumps({"jsonrpc": "2.0", "id": number, "result": self._shaped(result)})
        parts: list[str] = []
        for hole in (number, text, content):
            part, _, rest = rest.partition(json.dumps(hole))
            parts.append(part)
        return [part.encode() for part in (*parts, rest)]


def arguments_of(request: types.JSONRPCRequest) -> dict[str, Any]:
    """Those of a call."""
    return (request.params or {}).get("arguments") or {}
