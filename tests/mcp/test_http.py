"""Streamable HTTP: who may speak to it, where it answers, and what it leaves to its host."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest

pytestmark = pytest.mark.anyio

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@pytest.fixture
async def url(agents: Any, sqlite_url: str) -> AsyncGenerator[str]:
    async with agents.http_server(sqlite_url, allowed_hosts="queue.example, [fd00::7]") as url:
        yield url


async def status_of(url: str, method: str = "POST", **headers: str) -> int:
    async with httpx2.AsyncClient() as http:
        answer = await http.request(method, url, headers=HEADERS | headers, json=PING)
    return answer.status_code


#: What a request without a session is answered, once it has passed the checks of Host and Origin.
PASSED = 400


async def test_known_hosts_are_answered_on_any_port_and_in_any_case(url: str) -> None:
    for host in (
        "127.0.0.1",
        "localhost:1",
        "LOCALHOST:8790",
        "[::1]:80",
        "queue.example",
        "Queue.Example:443",
    ):
        assert await status_of(url, host=host) == PASSED, host


async def test_other_hosts_are_misdirected(url: str) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "8.8.8.8"):
        assert await status_of(url, host=host) == 421, host


async def test_pages_of_other_sites_are_refused(url: str) -> None:
    for origin in ("http://localhost:3000", "https://queue.example", "http://[::1]:8790"):
        assert await status_of(url, origin=origin) == PASSED, origin
    for origin in ("http://evil.example", "null", "http://localhost.evil.example", "file://"):
        assert await status_of(url, origin=origin) == 403, origin


async def test_nothing_but_the_exact_path_is_answered(url: str) -> None:
    for path in ("/", "/x", "x", "/../mcp/x", "/%2e"):
        assert await status_of(url + path) == 404, path


async def test_a_body_above_the_bound_is_refused_before_it_is_read(url: str) -> None:
    async with httpx2.AsyncClient() as http:
        answer = await http.post(url, headers=HEADERS, content=b"[" + b"0," * 600_000 + b"0]")
    assert answer.status_code == 413


async def test_a_body_of_another_type_is_refused(url: str) -> None:
    async with httpx2.AsyncClient() as http:
        answer = await http.post(url, headers=HEADERS | {"content-type": "text/plain"}, json=PING)
    assert answer.status_code in {400, 415}
