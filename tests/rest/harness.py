"""What the tests of REST share: the real app over real services, and a check of every answer against /openapi.json."""

import json
import re
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import anyio
import httpx2
import uvicorn
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from sqlalchemy import Connection, select

from holdfast_core.db import Database
from holdfast_core.db.tables import metadata
from holdfast_core.errors import KeyReused
from holdfast_core.services import Services
from holdfast_core.settings import load_settings
from holdfast_dashboard.app import create_app
from holdfast_server.commands.lean_http import lean_protocol
from holdfast_server.commands.web import SessionProtocol
from holdfast_server.mcp import build_mcp_server, create_mcp_endpoint
from support.stores import core

#: The longest that a test waits for anything at all.
PATIENCE: Final = 30.0
#: No error is longer, whatever was in the request.
LONGEST_PROBLEM: Final = 8_192
PROBLEM_JSON: Final = "application/problem+json"
SECURITY: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
#: Where there are pages, for people.
PAGES: Final = (
    "/tasks",
    "/tasks/jobs",
    "/tasks/jobs/0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90",
    "/tasks/workers",
    "/tasks/history",
)
#: What an address that is no operation may be answered.
UNLISTED: Final = frozenset({403, 404, 405, 413, 415, 421, 426, 500, 503})

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
#: What clients put there themselves.
_THEIRS: Final = frozenset({"payload", "progress"})


@dataclass(frozen=True)
class Operation:
    """One method at one address, as /openapi.json describes it."""

    method: str
    path: str
    described: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.described["operationId"])

    @property
    def has_body(self) -> bool:
        """Whether it takes JSON. Uploads have tests of their own."""
        return "application/json" in self.described.get("requestBody", {}).get("content", {})

    @property
    def body(self) -> dict[str, Any]:
        """The schema of its body."""
        schema = self.described["requestBody"]["content"]["application/json"]["schema"]
        return openapi()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]  # type: ignore[no-any-return]

    @property
    def query(self) -> list[dict[str, Any]]:
        return [p for p in self.described.get("parameters", []) if p["in"] == "query"]

    def matches(self, path: str) -> bool:
        parts = re.split(r"\{\w+\}", self.path)
        return re.fullmatch("[^/]+".join(re.escape(part) for part in parts), path) is not None

    def at(self, job_id: str) -> str:
        """The address for one job."""
        return self.path.replace("{jobId}", job_id)


def build_app() -> FastAPI:
    """The app without anything behind it."""

    def nothing() -> Services:
        raise AssertionError("no service is called for this")

    return create_app(nothing, load_settings(database_url="sqlite:////nowhere"))


@cache
def openapi() -> dict[str, Any]:
    return build_app().openapi()


@cache
def operations() -> tuple[Operation, ...]:
    paths = openapi()["paths"]
    return tuple(Operation(m.upper(), path, op) for path, item in paths.items() for m, op in item.items())


def with_body() -> list[Operation]:
    return [operation for operation in operations() if operation.has_body]


def find_operation(method: str, path: str) -> Operation | None:
    method = "GET" if method == "HEAD" else method
    found = [op for op in operations() if op.method == method and op.matches(path)]
    return min(found, key=lambda op: op.path.count("{"), default=None)


@cache
def _validator(schema: str) -> Draft202012Validator:
    whole = {**json.loads(schema), "components": openapi()["components"]}
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


def valid(schema: dict[str, Any], value: Any) -> bool:
    """Whether the schema of the API admits the value."""
    return bool(_validator(json.dumps(schema)).is_valid(value))


def check_answer(method: str, path: str, status: int, headers: httpx2.Headers, content: bytes) -> None:
    """What holds for each answer of each route; AssertionError or ValidationError where it does not."""
    where = f"{method} {path[:80]} → {status}"
    for name, value in SECURITY.items():
        assert headers.get(name) == value, f"{where}: {name}"
    assert headers["content-security-policy"].startswith("default-src 'none'"), where
    if path.startswith(("/api/", "/mcp")):
        assert "no-store" in headers["cache-control"], where
    if path == "/mcp" and status not in {403, 415, 421}:
        return  # the protocol's own
    if path in PAGES and headers["content-type"].startswith("text/html"):
        return
    content_type = headers.get("content-type", "").split(";")[0]
    body = None
    if status >= 400:
        assert content_type == PROBLEM_JSON, f"{where}: {content_type}"
        if method != "HEAD":
            body = _check_problem(where, status, headers, content)
    operation = find_operation(method, path)
    if operation is None:
        assert status < 400 or status in UNLISTED, where
        return
    described = operation.described["responses"].get(str(status))
    if status == 405:
        return
    assert described is not None, f"{where} is not described"
    if status == 204:
        assert not content, where
        return
    assert content_type in described["content"], f"{where}: {content_type} is not described"
    if method == "HEAD":
        return
    if content_type not in {"application/json", PROBLEM_JSON}:
        return  # text or bytes, which have tests of their own
    body = json.loads(content) if body is None else body
    schema = described["content"][content_type]["schema"]
    _validator(json.dumps(schema)).validate(body)
    shape = openapi()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    assert body.keys() <= shape["properties"].keys(), where
    _check_times(where, body)


def _check_problem(where: str, status: int, headers: httpx2.Headers, content: bytes) -> dict[str, Any]:
    text = content.decode()
    assert len(text) <= LONGEST_PROBLEM, f"{where}: an error of {len(text)} characters"
    for secret in ("Traceback", 'File "', "SELECT ", "pydantic", "sqlalchemy"):
        assert secret not in text, f"{where}: {text}"
    body: dict[str, Any] = json.loads(text)
    _validator('{"$ref": "#/components/schemas/Problem"}').validate(body)
    assert body["status"] == status, where
    assert body["type"] == f"/problems/{body['code']}", where
    assert body["title"], where
    assert body["detail"], where
    assert (status in {429, 503}) == ("retry-after" in headers), where
    assert (status == 422 and body["code"] != KeyReused.code) == bool(body.get("errors")), where
    return body


def _check_times(where: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name.endswith("At") and inner is not None:
                assert _TIME.fullmatch(inner), f"{where}: {name} is {inner}"
            if name not in _THEIRS:
                _check_times(where, inner)
    elif isinstance(value, list):
        for inner in value:
            _check_times(where, inner)


async def check_response(response: httpx2.Response) -> None:
    """The same as an event hook."""
    await response.aread()
    request = response.request
    check_answer(request.method, request.url.path, response.status_code, response.headers, response.content)


@dataclass
class Api:
    """The app, a client of it, and what is behind it."""

    http: httpx2.AsyncClient
    app: FastAPI
    services: Services
    database: Database

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        """Any request; `body` goes as JSON."""
        with anyio.fail_after(PATIENCE):
            return await self.http.request(method, path, **({} if body is None else {"json": body}), **more)

    async def get(self, path: str, **query: Any) -> Any:
        """A read that succeeds."""
        answer = await self.ask("GET", path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """A write that succeeds."""
        answer = await self.ask("POST", path, body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def refused(
        self, status: int, code: str, method: str, path: str, body: Any = None, **more: Any
    ) -> Any:
        """A request that is refused, with this code: its problem."""
        answer = await self.ask(method, path, body, **more)
        assert answer.status_code == status, f"{method} {path[:80]}: {answer.status_code} {answer.text[:500]}"
        problem = answer.json()
        assert problem["code"] == code, problem
        return problem

    async def enqueue(self, **body: Any) -> Any:
        return await self.post("/api/queue/jobs", {"type": "t", **body}, status=201)

    async def claim(self, worker: str = "w-1", **body: Any) -> Any:
        """The whole answer of a claim."""
        return await self.post("/api/queue/jobs/claim", {"workerId": worker, "leaseSeconds": 60, **body})

    async def claimed(self, worker: str = "w-1", **body: Any) -> Any:
        """The job of a claim that finds one."""
        job = (await self.claim(worker, **body))["job"]
        assert job is not None
        return job

    async def pause(self, mode: str = "drain", reason: str = "a test", **body: Any) -> Any:
        said = {"action": "pause", "mode": mode, "reason": reason, **body}
        return await self.post("/api/system/worker-pause", said)

    async def resume(self, reason: str = "a test", **body: Any) -> Any:
        return await self.post("/api/system/worker-pause", {"action": "resume", "reason": reason, **body})


def on_job(job: Any, verb: str) -> str:
    """The address of a verb on this job."""
    return f"/api/queue/jobs/{job['id']}/{verb}"


def holder(job: Any, **body: Any) -> dict[str, Any]:
    """The body in which the holder of a job speaks."""
    return {"workerId": job["claimedBy"], "leaseToken": job["leaseToken"], **body}


@asynccontextmanager
async def open_api(url: str, **settings: Any) -> AsyncGenerator[Api]:
    """The app over the database, asked without a socket."""
    async with behind(url, **settings) as (app, services, database):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", event_hooks={"response": [check_response]}
        ) as http:
            yield Api(http, app, services, database)


@asynccontextmanager
async def behind(url: str, **settings: Any) -> AsyncGenerator[tuple[FastAPI, Services, Database]]:
    """The app as the server puts it together, and what is behind it."""
    loaded = load_settings(database_url=url, **settings)
    async with core(url, **settings) as (services, database):
        endpoint = create_mcp_endpoint(build_mcp_server(lambda: services, loaded), loaded)
        async with endpoint.running():
            yield create_app(lambda: services, loaded, mcp_app=endpoint.app), services, database


class ListeningServer(uvicorn.Server):
    """Says when it listens, and where."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @property
    def port(self) -> int:
        (server,) = self.servers
        return int(server.sockets[0].getsockname()[1])


@dataclass
class Socket(Api):
    """The same on a real socket."""

    port: int
    server: ListeningServer

    async def exchange(self, request: bytes, method: str = "GET", path: str = "/") -> httpx2.Response:
        """Send these bytes, read one answer, and check it as that of this method and path."""
        with anyio.fail_after(PATIENCE):
            async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
                await stream.send(request)
                answer = await read_answer(stream)
        check_answer(method, path, answer.status_code, answer.headers, answer.content)
        return answer


async def read_answer(stream: anyio.abc.ByteStream) -> httpx2.Response:
    """One answer that has a Content-Length."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += await stream.receive()
    head, content = raw.split(b"\r\n\r\n", 1)
    first, *lines = head.split(b"\r\n")
    headers = httpx2.Headers([tuple(line.split(b": ", 1)) for line in lines])  # type: ignore[misc]
    while len(content) < int(headers["content-length"]):
        content += await stream.receive()
    return httpx2.Response(int(first.split()[1]), headers=headers, content=content)


@asynccontextmanager
async def open_socket(url: str, **settings: Any) -> AsyncGenerator[Socket]:
    """The app over the database, behind uvicorn, as `holdfast serve` runs it."""
    async with behind(url, **settings) as (app, services, database):
        config = uvicorn.Config(
            app,
            port=0,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=lean_protocol(app),
            ws=SessionProtocol,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
        )
        server = ListeningServer(config)
        ended = anyio.Event()

        async def serve() -> None:
            await server._serve()  # without its signal handlers, which are pytest's business
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            try:
                with anyio.fail_after(PATIENCE):
                    await server.listening.wait()
                base = f"http://127.0.0.1:{server.port}"
                async with httpx2.AsyncClient(
                    base_url=base, event_hooks={"response": [check_response]}, timeout=PATIENCE
                ) as http:
                    yield Socket(http, app, services, database, server.port, server)
            finally:
                server.should_exit = True
                with anyio.move_on_after(PATIENCE, shield=True):
                    await ended.wait()


async def dump(database: Database, *but: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, in an order of their own."""

    def reading(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
            if table.name not in {*but, "metrics_history"}  # written by the minute, whoever asks for what
        }

    return await database.read(reading)


def strings_in(value: Any) -> Iterator[str]:
    """All strings in a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from strings_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_in(inner)
