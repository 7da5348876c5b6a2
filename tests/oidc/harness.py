"""What the tests of the OpenID provider share: a server that knows it, and each way in."""

from collections.abc import Callable
from itertools import count
from typing import Any, Final

import httpx2
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from support.push import push_url
from support.servers import Server, start_server
from support.stub_issuer import AUDIENCE, StubIssuer

__all__ = ["WAYS", "asked", "server_of", "status_of"]

_addresses: Final = count(1)


def server_of(database_url: str, issuer: StubIssuer, **more: str) -> Server:
    """A server that takes the tokens of this issuer. Requests may say where they come from, so that one test's failed
    ones do not count against another's."""
    environment = {
        "HOLDFAST_AUTH_PROVIDER": "oidc",
        "HOLDFAST_OIDC_ISSUER": issuer.url,
        "HOLDFAST_OIDC_AUDIENCE": AUDIENCE,
        "HOLDFAST_TRUSTED_PROXIES": "127.0.0.1",
    }
    return start_server(database_url, **environment | more)


def from_elsewhere(token: str) -> dict[str, str]:
    """The token, and an address that nobody has come from before."""
    number = next(_addresses)
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}


def asked(url: str, token: str, path: str = "/api/session", **request: Any) -> httpx2.Response:
    """The answer to one request with this token."""
    method = request.pop("method", "GET")
    return httpx2.request(method, url + path, headers=from_elsewhere(token), trust_env=False, **request)


def _rest(url: str, token: str) -> int:
    return asked(url, token, "/api/system/worker-pause").status_code


def _mcp(url: str, token: str) -> int:
    client = {"name": "test", "version": "1"}
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client},
    }
    headers = {**from_elsewhere(token), "Accept": "application/json, text/event-stream"}
    return httpx2.post(f"{url}/mcp", json=body, headers=headers, trust_env=False).status_code


def _stream(url: str, token: str) -> int:
    headers = from_elsewhere(token)
    with httpx2.stream("GET", f"{url}/api/system/events", headers=headers, trust_env=False) as answer:
        return answer.status_code


def _session(url: str, token: str) -> int:
    try:
        with connect(
            push_url(url, "x"),
            subprotocols=["holdfast-worker-v1"],  # type: ignore[list-item]
            additional_headers=from_elsewhere(token),
            proxy=None,
        ):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


#: Each way in, and what a good token of a person is answered there: push sessions are for workers.
WAYS: Final[dict[str, tuple[Callable[[str, str], int], int]]] = {
    "REST": (_rest, 200),
    "MCP": (_mcp, 200),
    "SSE": (_stream, 200),
    "WebSocket": (_session, 403),
}


def status_of(way: str, url: str, token: str) -> int:
    """What a request with this token is answered, by this way in."""
    return WAYS[way][0](url, token)
