"""Calls that are answered without the SDK: nobody can tell, and whatever is out of the ordinary still goes to it."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from mcp.server.context import ServerRequestContext
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast_core.callers import CALLER_KEY, LOCAL_OPERATOR, WATCHED_KEY
from holdfast_core.settings import load_settings
from holdfast_server.compose import open_services
from holdfast_server.mcp import build_mcp_server, create_mcp_endpoint
from holdfast_server.mcp.catalog import TOOLS, tool_input_schema

pytestmark = pytest.mark.anyio

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
HEADERS = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": VERSION,
    "mcp-method": "tools/call",
}
#: Any one of them, and the SDK answers, in the very same words.
BY_THE_SDK = {"mcp-param-region": "eu"}


@dataclass
class Endpoint:
    """The endpoint, asked without a socket. `by_sdk`: what the SDK was asked; `watched`: what would have ended with the
    credential of its caller."""

    http: httpx2.AsyncClient
    by_sdk: list[str]
    watched: list[str]

    async def call(
        self, tool: str, arguments: dict[str, Any], number: int | str = 1, **headers: str
    ) -> httpx2.Response:
        return await self.post(call(tool, arguments, number), tool, **headers)

    async def post(self, body: object, tool: str, **headers: str) -> httpx2.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        all_headers = HEADERS | {"mcp-name": tool} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.http.post(
            "/mcp", content=raw, headers={name: value for name, value in all_headers.items() if value}
        )


def call(tool: str, arguments: dict[str, Any], number: int | str = 1) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments, "_meta": META}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


@asynccontextmanager
async def open_endpoint(url: str, middleware: Any = None) -> AsyncGenerator[Endpoint]:
    settings = load_settings(database_url=url)
    by_sdk: list[str] = []
    watched: list[str] = []
    async with open_services(settings) as services:
        server = build_mcp_server(lambda: services, settings)
        if middleware is not None:
            server.middleware.append(middleware)
        endpoint = create_mcp_endpoint(server, settings)
        answer = endpoint.plain.handle_request

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            by_sdk.append(scope["path"])
            await answer(scope, receive, send)

        endpoint.plain.handle_request = counted  # type: ignore[method-assign]

        async def watching(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
            watched.append(scope["path"])
            await app(scope, receive, send)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[CALLER_KEY], scope[WATCHED_KEY] = LOCAL_OPERATOR, watching
            await endpoint.app(scope, receive, send)

        async with (
            endpoint.running(),
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1:8790"
            ) as http,
        ):
            yield Endpoint(http, by_sdk, watched)


@pytest.fixture
async def endpoint(sqlite_url: str) -> AsyncGenerator[Endpoint]:
    async with open_endpoint(sqlite_url) as opened:
        yield opened


async def test_a_plain_call_is_answered_as_the_sdk_would_answer_it(endpoint: Endpoint) -> None:
    """Answers, tool errors, ids of both kinds, and letters of all kinds."""
    made = await endpoint.call("queue.enqueue", {"type": "t", "payload": {"say": '„ä“ \u2028 😀 <id> \\ "'}})
    job_id = made.json()["result"]["structuredContent"]["id"]
    calls: list[tuple[str, dict[str, Any]]] = [
        ("queue.get", {"jobId": job_id}),
        ("queue_get", {"jobId": job_id}),
        ("queue.list", {}),
        ("queue.get", {"jobId": "7"}),
        ("queue.get", {"nothing": 1}),
        ("system.resume", {"reason": "„so“"}),
    ]
    for number, (tool, arguments) in zip((0, 1, -7, "a", "", 'ä"'), calls, strict=True):
        here = await endpoint.call(tool, arguments, number)
        assert endpoint.by_sdk == []
        there = await endpoint.call(tool, arguments, number, **BY_THE_SDK)
        assert endpoint.by_sdk.pop() == "/mcp"
        assert (here.status_code, here.json()) == (there.status_code, there.json()) == (200, here.json())
        assert here.headers["content-type"] == there.headers["content-type"]
        assert here.json()["id"] == number


META_WITH_TRASH = {**META, "io.modelcontextprotocol/clientInfo": {"name": 7}}
WRONG: dict[str, object] = {
    "no JSON": b'{"jsonrpc": "2.0", "id": 1, ',
    "nothing": b"",
    "half a letter": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call\xff"}',
    "nested too deep": b"[" * 100_000,
    "a list": [call("system.status", {})],
    "an answer": {"jsonrpc": "2.0", "id": 1, "result": {}},
    "a notification": {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {}},
    "another version of JSON-RPC": call("system.status", {}) | {"jsonrpc": "1.0"},
    "no id": call("system.status", {}) | {"id": None},
    "a broken id": call("system.status", {}) | {"id": 1.5},
    "an id that is true": call("system.status", {}) | {"id": True},
    "another method": call("system.status", {}) | {"method": "tools/list"},
    "another tool": call("queue.list", {}),
    "the other spelling": call("system_status", {}),
    "no parameters": {"jsonrpc": "2.0", "id": 1, "method": "tools/call"},
    "no envelope": call("system.status", {}) | {"params": {"name": "system.status"}},
    "half an envelope": call("system.status", {})
    | {"params": {"name": "system.status", "_meta": {next(iter(META)): VERSION}}},
    "another version": call("system.status", {})
    | {"params": {"name": "system.status", "_meta": {**META, next(iter(META)): "2025-11-25"}}},
    "a client without a name": call("system.status", {})
    | {"params": {"name": "system.status", "_meta": META_WITH_TRASH}},
    "arguments that are a list": call("system.status", {})
    | {"params": {"name": "system.status", "arguments": [], "_meta": META}},
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
async def test_what_is_wrong_in_a_body_the_sdk_tells(endpoint: Endpoint, body: object) -> None:
    here = await endpoint.post(body, "system.status")
    assert endpoint.by_sdk == ["/mcp"]
    there = await endpoint.post(body, "system.status", **BY_THE_SDK)
    assert (here.status_code, here.content) == (there.status_code, there.content)
    assert "result" not in here.text


HEADS: dict[str, tuple[dict[str, str], int]] = {
    "a host that is not ours": ({"host": "evil.example"}, 421),
    "a host that begins like ours": ({"host": "127.0.0.1.evil.example:80"}, 421),
    "a page of another site": ({"origin": "http://evil.example"}, 403),
    "no kind of body": ({"content_type": ""}, 400),
    "another kind of body": ({"content_type": "text/plain"}, 400),
    "an answer that is no JSON": ({"accept": "text/event-stream"}, 406),
    "no method in the head": ({"mcp_method": ""}, 400),
    "another method in the head": ({"mcp_method": "tools/list"}, 400),
    "no tool in the head": ({"mcp_name": ""}, 400),
    "another tool in the head": ({"mcp_name": "queue.list"}, 400),
    "a version that is not known": ({"mcp_protocol_version": "2099-01-01"}, 400),
}


@pytest.mark.parametrize(("headers", "status"), HEADS.values(), ids=HEADS.keys())
async def test_what_is_wrong_in_a_head_the_sdk_tells(
    endpoint: Endpoint, headers: dict[str, str], status: int
) -> None:
    here = await endpoint.post(call("system.status", {}), "system.status", **headers)
    there = await endpoint.post(call("system.status", {}), "system.status", **BY_THE_SDK, **headers)
    assert (here.status_code, here.content) == (there.status_code, there.content)
    assert here.status_code == status


@pytest.mark.parametrize("twice", ["mcp-protocol-version", "mcp-method", "mcp-name"])
async def test_a_head_that_says_a_thing_twice_is_refused(endpoint: Endpoint, twice: str) -> None:
    given = HEADERS | {"mcp-name": "system.status"}
    headers = [*given.items(), (twice, given[twice])]
    answer = await endpoint.http.post("/mcp", json=call("system.status", {}), headers=headers)
    assert answer.status_code == 400
    assert "more than once" in answer.json()["error"]["message"]


async def test_the_address_may_ask_for_another_spelling(endpoint: Endpoint) -> None:
    headers = HEADERS | {"mcp-name": "queue.get"}
    for query, words in (("?names=underscore", "queue_list"), ("", "queue.list")):
        answer = await endpoint.http.post(
            f"/mcp{query}", json=call("queue.get", {"jobId": "7"}), headers=headers
        )
        assert words in answer.json()["result"]["content"][0]["text"]
    assert len(endpoint.by_sdk) == 1


async def test_a_body_that_comes_in_parts_is_read_to_its_end(endpoint: Endpoint) -> None:
    body = json.dumps(call("system.status", {})).encode()

    async def parts() -> AsyncGenerator[bytes]:
        for byte in range(0, len(body), 50):
            yield body[byte : byte + 50]

    headers = HEADERS | {"mcp-name": "system.status", "content-length": str(len(body))}
    answer = await endpoint.http.post("/mcp", content=parts(), headers=headers)
    assert answer.json()["result"]["structuredContent"]["system"]["version"] == 1
    assert endpoint.by_sdk == []


async def test_a_body_of_unknown_or_too_great_a_length_is_left_to_the_sdk(endpoint: Endpoint) -> None:
    async def parts(length: int) -> AsyncGenerator[bytes]:
        yield json.dumps(call("system.status", {})).encode()
        for _ in range(length):
            yield b" " * 1_000

    headers = HEADERS | {"mcp-name": "system.status"}
    for length, status in ((1, 200), (1_100, 413)):
        answer = await endpoint.http.post("/mcp", content=parts(length), headers=headers)
        assert answer.status_code == status
    answer = await endpoint.call("queue.enqueue", {"type": "t", "payload": {"text": "x" * 1_048_576}})
    assert answer.status_code == 413
    assert len(endpoint.by_sdk) == 3


async def test_another_verb_is_not_allowed(endpoint: Endpoint) -> None:
    answer = await endpoint.http.put(
        "/mcp", json=call("system.status", {}), headers=HEADERS | {"mcp-name": "system.status"}
    )
    assert answer.status_code == 405


async def test_all_calls_but_those_of_workers_that_end_at_once_are_watched(endpoint: Endpoint) -> None:
    """Whoever's credential ends meanwhile hears of it: tests/mcp/test_access.py."""
    worker = {"workerId": "w", "leaseSeconds": 60}
    await endpoint.call("queue.claim", worker)
    await endpoint.call("queue.claim", {**worker, "waitSeconds": 0})
    await endpoint.call("queue.presence", {"workerId": "w"})
    assert endpoint.watched == []
    await endpoint.call("queue.enqueue", {"type": "t"})
    await endpoint.call("system.status", {})
    await endpoint.call("queue.claim", {**worker, "waitSeconds": 0.1})
    await endpoint.call("queue.claim", {**worker, "waitSeconds": "0"})
    assert len(endpoint.watched) == 4
    assert endpoint.by_sdk == []
    await endpoint.call("queue.claim", worker, **BY_THE_SDK)
    assert len(endpoint.watched) == 5


async def test_middleware_of_the_server_sees_every_call(sqlite_url: str) -> None:
    """The spans of OpenTelemetry are made by one."""
    seen: list[str] = []

    async def middleware(context: ServerRequestContext[Any, Any], call_next: Any) -> Any:
        seen.append(context.method)
        return await call_next(context)

    async with open_endpoint(sqlite_url, middleware) as endpoint:
        answer = await endpoint.call("system.status", {})
    assert answer.json()["result"]["isError"] is False
    assert seen == ["tools/call"]


def test_no_tool_has_arguments_that_are_repeated_in_the_head() -> None:
    """Nobody would compare them."""
    assert not [tool.name for tool in TOOLS if "x-mcp-header" in json.dumps(tool_input_schema(tool.name))]
