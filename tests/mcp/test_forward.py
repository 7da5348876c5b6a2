"""`holdfast mcp --url`: what a server elsewhere offers, whatever becomes of that server meanwhile."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters, types

from holdfast_core.policy import INCLUDED, TOOLS, may_call
from holdfast_core.services import ClaimService
from holdfast_core.states import Role
from holdfast_server.mcp.subscriptions import VERSION_META_KEY
from support.ports import lasting_port
from support.servers import start_server

PATIENCE = 60
SYSTEM = "holdfast://system"


@asynccontextmanager
async def forwarder(
    agents: Any, url: str, mode: str = "auto", *, heard: list[int] | None = None, **environment: str
) -> AsyncGenerator[Client]:
    """A client of `holdfast mcp --url`. `heard` takes the versions that are announced."""

    async def hear(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification) and heard is not None:
            heard.append(message.params.meta[VERSION_META_KEY])

    command = agents.command("mcp", "--url", url)
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=environment)
    async with Client(parameters, mode=mode, message_handler=hear) as client:
        yield client


def text_of(result: types.CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    return content.text


async def ask(client: Client, name: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    with anyio.fail_after(PATIENCE):
        result = await client.call_tool(name, arguments or {})
    assert not result.is_error, text_of(result)
    answer: dict[str, Any] = result.structured_content
    return answer


# What passes through


@pytest.mark.anyio
async def test_everything_that_the_server_offers_passes_through(
    agents: Any, mode: str, database_url: str
) -> None:
    async with (
        agents.http_server(database_url) as url,
        agents.over_url(url, mode) as direct,
        forwarder(agents, url.removesuffix("/mcp"), mode) as client,
    ):
        there = direct.client
        assert client.protocol_version == there.protocol_version
        assert client.instructions == there.instructions
        assert client.server_capabilities.resources == there.server_capabilities.resources
        assert (await client.list_tools()).tools == (await there.list_tools()).tools
        assert (await client.list_resources()).resources == (await there.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
        assert templates == (await there.list_resource_templates()).resource_templates
        assert (await client.list_prompts()).prompts == (await there.list_prompts()).prompts
        prompt = {"name": "upgrade", "arguments": {"reason": "Grüße 🚀", "mode": "quiesce"}}
        assert (await client.get_prompt(**prompt)).messages == (await there.get_prompt(**prompt)).messages
        playbook = "holdfast://playbook"
        read = (await client.read_resource(playbook)).contents
        assert read == (await there.read_resource(playbook)).contents


@pytest.mark.anyio
async def test_a_job_goes_its_way_and_errors_come_as_the_server_tells_them(
    agents: Any, mode: str, database_url: str
) -> None:
    async with agents.http_server(database_url) as url, forwarder(agents, url, mode) as client:
        payload = {"text": "Grüße 🚀 \u2028\n", "deep": [[{"a": None}]], "large": "x" * 200_000}
        job = await ask(client, "queue.enqueue", {"type": "t", "payload": payload})
        claimed = await ask(client, "queue_claim", {"workerId": "w", "leaseSeconds": 60})
        assert claimed["job"]["payload"] == payload
        with anyio.fail_after(PATIENCE):
            refused = await client.call_tool("queue.complete", {"jobId": job["id"], "workerId": "other"})
        assert refused.is_error
        assert refused.structured_content is None
        assert text_of(refused).startswith("[job_not_owned]")
        done = {
            "jobId": job["id"],
            "workerId": "w",
            "leaseToken": claimed["job"]["leaseToken"],
            "resultSummary": "ok",
        }
        assert (await ask(client, "queue.complete", done))["status"] == "succeeded"
        with pytest.raises(MCPError, match="Unknown tool") as unknown:
            await client.call_tool("queue.purge", {})
        assert unknown.value.code == -32602
        with pytest.raises(MCPError, match="Unknown resource") as missing:
            await client.read_resource("holdfast://nowhere")
        assert missing.value.data == {"uri": "holdfast://nowhere"}


@pytest.mark.anyio
async def test_the_spelling_of_names_is_chosen_by_the_setting_or_by_the_address(
    agents: Any, mode: str, sqlite_url: str
) -> None:
    async with agents.http_server(sqlite_url) as url:
        for address, environment, mark in (
            (url, {}, "."),
            (url, {"HOLDFAST_TOOL_NAME_STYLE": "underscore"}, "_"),
            (url + "?names=underscore", {}, "_"),
            (url + "?names=dot", {"HOLDFAST_TOOL_NAME_STYLE": "underscore"}, "."),
        ):
            async with forwarder(agents, address, mode, **environment) as client:
                names = [tool.name for tool in (await client.list_tools()).tools]
                assert f"system{mark}wait" in names
                assert len(names) == len(set(names))


@pytest.mark.anyio
async def test_progress_passes_through(agents: Any, mode: str, sqlite_url: str) -> None:
    reports: list[str | None] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reports.append(message)

    async with agents.http_server(sqlite_url) as url, forwarder(agents, url, mode) as client:
        await ask(client, "queue.enqueue", {"type": "t"})
        await ask(client, "queue.claim", {"workerId": "w", "leaseSeconds": 60})
        await ask(client, "system.pause", {"mode": "drain", "reason": "upgrade"})
        with anyio.fail_after(PATIENCE):
            result = await client.call_tool(
                "system.wait", {"for": "drained", "timeoutSeconds": 3}, progress_callback=report
            )
        assert result.structured_content["reached"] is False
    assert any("1 running" in str(message) for message in reports)


@pytest.mark.anyio
async def test_a_cancelled_call_is_cancelled_on_the_server(
    agents: Any, mode: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = anyio.Event(), anyio.Event()
    claim = ClaimService.claim

    async def watched(*arguments: Any, **more: Any) -> Any:
        begun.set()
        try:
            return await claim(*arguments, **more)
        finally:
            ended.set()

    monkeypatch.setattr(ClaimService, "claim", watched)
    async with agents.http_server(sqlite_url) as url, forwarder(agents, url, mode) as client:
        async with anyio.create_task_group() as tasks:
            waiting = {"workerId": "w", "leaseSeconds": 60, "waitSeconds": 25}
            tasks.start_soon(client.call_tool, "queue.claim", waiting)
            with anyio.fail_after(PATIENCE):
                await begun.wait()
            assert not ended.is_set()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(15):  # well before the 25 s of the claim
            await ended.wait()
        await ask(client, "queue.enqueue", {"type": "t"})
        assert (await ask(client, "system.status"))["metrics"]["queued"] == 1


@asynccontextmanager
async def subscribed(client: Client) -> AsyncGenerator[None]:
    if client.protocol_version >= "2026":
        async with client.listen(resource_subscriptions=[SYSTEM]) as listening:
            assert listening.honored.resource_subscriptions == [SYSTEM]
            yield
    else:
        params = types.SubscribeRequestParams(uri=SYSTEM)
        await client.session.send_request(types.SubscribeRequest(params=params), types.EmptyResult)
        yield
        ending = types.UnsubscribeRequestParams(uri=SYSTEM)
        await client.session.send_request(types.UnsubscribeRequest(params=ending), types.EmptyResult)


async def pause(client: Client, reason: str) -> int:
    answer = await ask(client, "system.pause", {"mode": "drain", "reason": reason})
    version: int = answer["system"]["version"]
    return version


async def until_heard(heard: list[int], version: int) -> None:
    with anyio.fail_after(PATIENCE):
        while version not in heard:
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_subscriptions_pass_through_each_version_once_and_in_order(
    agents: Any, mode: str, database_url: str
) -> None:
    heard: list[int] = []
    async with (
        agents.http_server(database_url) as url,
        forwarder(agents, url, mode, heard=heard) as client,
        subscribed(client),
    ):
        versions = [await pause(client, f"reason {number}") for number in range(20)]
        await until_heard(heard, versions[-1])
        assert heard == versions


@pytest.mark.anyio
async def test_what_the_server_has_no_updates_for_cannot_be_subscribed_to(
    agents: Any, sqlite_url: str
) -> None:
    params = types.SubscribeRequestParams(uri="holdfast://playbook")
    async with agents.http_server(sqlite_url) as url, forwarder(agents, url, "legacy") as client:
        with pytest.raises(MCPError, match="cannot be subscribed to"):
            await client.session.send_request(types.SubscribeRequest(params=params), types.EmptyResult)


# A server that is away


@pytest.mark.anyio
async def test_a_server_that_comes_later_and_goes_and_comes_again_is_no_end(
    agents: Any, mode: str, sqlite_url: str
) -> None:
    heard: list[int] = []
    port = lasting_port()
    address = f"http://127.0.0.1:{port}"
    async with forwarder(agents, address, mode, heard=heard) as client:
        assert client.instructions.startswith("[server_unreachable]")
        with pytest.raises(MCPError, match=r"^\[server_unreachable\] .*cannot be reached.*serve"):
            await client.list_tools()
        with pytest.raises(MCPError, match=r"^\[server_unreachable\]"):
            async with subscribed(client):
                pass
        away = await client.call_tool("system.status", {})
        assert away.is_error
        assert text_of(away).startswith(f"[server_unreachable] The Holdfast server at {address}/mcp cannot")
        assert "Nothing was done" in text_of(away)

        async with start_server(sqlite_url, "--port", str(port)) as server:
            version = await pause(client, "first")
            async with subscribed(client):
                second = await pause(client, "second")
                await until_heard(heard, second)
                assert heard == [second]
                await anyio.to_thread.run_sync(server.kill)
                with anyio.fail_after(PATIENCE):
                    assert (await client.call_tool("system.status", {})).is_error
                async with agents.over_stdio(sqlite_url) as other:
                    missed = await pause(other.client, "while the server is away")
                async with start_server(sqlite_url, "--port", str(port)):
                    assert (await ask(client, "system.status"))["system"]["version"] == version + 2
                    await until_heard(heard, missed)  # its stream broke, and was opened anew
                    last = await pause(client, "third")
                    await until_heard(heard, last)
                    assert heard == [second, missed, last]


@contextmanager
def answering(status: int, body: bytes, content_type: str) -> Generator[tuple[str, list[dict[str, str]]]]:
    """The address of something that gives every request this answer, and the headers that it got."""
    got: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            thread.join()


PROBLEM = "application/problem+json"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body", "content_type", "words"),
    [
        (401, b"", "text/plain", ["[not_authenticated]", "HOLDFAST_TOKEN"]),
        (401, b'{"error": "invalid_token"}', "application/json", ["[not_authenticated]", "HOLDFAST_TOKEN"]),
        (403, b"no", "text/plain", ["[not_allowed]", "role"]),
        (413, b"", "text/plain", ["[body_too_large]", "Send less"]),
        (421, b"Invalid Host header", "text/plain", ["[misdirected_request]", "HOLDFAST_ALLOWED_HOSTS"]),
        (404, b"<html>", "text/html", ["[unexpected_answer]", "404", "--url"]),
        (200, b"<html>", "text/html", ["[unexpected_answer]", "200", "--url"]),
        (200, b"data: hello\n\n", "text/event-stream", ["[unexpected_answer]", "--url"]),
        (200, b"", "text/event-stream", ["[server_unreachable]", "carried out or not"]),
        (200, b'{"jsonrpc": "2.0", "id": 1, "result": []}', "application/json", ["[unexpected_answer]"]),
        (200, b'{"jsonrpc": "2.0", "id": 1, "error": 7}', "application/json", ["[unexpected_answer]"]),
        (502, b"bad gateway", "text/plain", ["[server_unreachable]", "502"]),
        (
            503,
            b'{"type": "t", "title": "t", "status": 503, "code": "unavailable", "detail": "Going down."}',
            PROBLEM,
            ["[unavailable] Going down."],
        ),
        (
            401,
            b'{"type": "t", "title": "t", "status": 401, "code": "not_authenticated", "detail": "Who is it?"}',
            PROBLEM,
            ["[not_authenticated] Who is it?", "HOLDFAST_TOKEN"],
        ),
    ],
)
async def test_what_answers_wrongly_is_told_with_cause_and_way_out(
    agents: Any, status: int, body: bytes, content_type: str, words: list[str]
) -> None:
    with answering(status, body, content_type) as (url, _):
        async with forwarder(agents, url, "legacy") as client:
            with anyio.fail_after(PATIENCE):
                result = await client.call_tool("system.status", {})
            assert result.is_error
            for word in words:
                assert word in text_of(result)
            with pytest.raises(MCPError) as error:
                await client.list_tools()
            assert error.value.message == text_of(result)


@pytest.mark.anyio
async def test_the_token_goes_with_every_request_and_is_never_shown(agents: Any) -> None:
    with answering(401, b"", "text/plain") as (url, got):
        async with forwarder(agents, url, HOLDFAST_TOKEN="hf_secret") as client:
            result = await client.call_tool("system.status", {})
            assert "hf_secret" not in text_of(result) + (client.instructions or "")
        assert {headers["authorization"] for headers in got} == {"Bearer hf_secret"}
        got.clear()
        async with forwarder(agents, url) as client:
            await client.call_tool("system.status", {})
        assert got
        assert not any("authorization" in headers for headers in got)


# The role


@pytest.mark.anyio
@pytest.mark.parametrize("role", list(Role))
async def test_a_role_narrows_what_is_forwarded(agents: Any, sqlite_url: str, role: Role) -> None:
    async with (
        agents.http_server(sqlite_url) as url,
        forwarder(agents, f"{url}?names=underscore", HOLDFAST_MCP_ROLE=role) as client,
    ):
        listed = {tool.name for tool in (await client.list_tools()).tools}
        admitted = {name for name in TOOLS if may_call(INCLUDED[role], name)}
        assert {name.replace("_", ".", 1) for name in listed} == admitted
        prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
        assert ("upgrade" in prompts) is (role in {Role.OPERATOR, Role.ADMIN})
        if "upgrade" not in prompts:
            for name in ("system.pause", "system_pause"):
                refused = await client.call_tool(name, {"mode": "drain", "reason": "x"})
                assert text_of(refused).startswith(f"[not_allowed] The role {role}")
            with pytest.raises(MCPError, match="not_allowed"):
                await client.get_prompt("upgrade", {})
            assert (await ask(client, "system_status"))["system"]["version"] == 1


# The process


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "holdfast_worker.cli", "mcp", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=PATIENCE, env=environment, input=""
    )


def without(tmp_path: Path, *absent: str) -> dict[str, str]:
    """An environment in which these are not installed."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n"
    )
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.anyio
async def test_it_needs_neither_the_database_nor_the_web(
    agents: Any, mode: str, sqlite_url: str, tmp_path: Path
) -> None:
    environment = without(tmp_path, "alembic", "asyncpg", "fastapi", "sqlalchemy", "uvloop")
    async with (
        agents.http_server(sqlite_url) as url,
        forwarder(agents, url, mode, **environment) as client,
        subscribed(client),
    ):
        assert (await ask(client, "system.status"))["system"]["version"] == 1


def test_without_the_mcp_library_it_names_its_own_extra(tmp_path: Path) -> None:
    ended = run(without(tmp_path, "mcp"), "--url", "http://127.0.0.1:1")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "pip install 'holdfast[mcp]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--url", "127.0.0.1:8790"], {}, "not an address"),
        (["--url", "ftp://x"], {}, "not an address"),
        (["--url", "http://u:secret@x"], {}, "HOLDFAST_TOKEN"),
        (["--url", "http://x:99999999"], {}, "not an address"),
        (["--url", "http://x/#y"], {}, "not an address"),
        (["--url", "http://x y"], {}, "not an address"),
        (["--url", "http://x"], {"HOLDFAST_TOOL_NAME_STYLE": "dashes"}, "HOLDFAST_TOOL_NAME_STYLE"),
        (["--url", "http://x"], {"HOLDFAST_MCP_ROLE": "king"}, "HOLDFAST_MCP_ROLE"),
        (["--url", "http://x"], {"HOLDFAST_TOKEN": "se\ncret"}, "HOLDFAST_TOKEN"),
    ],
)
def test_what_cannot_be_started_is_one_line(
    arguments: list[str], environment: dict[str, str], words: str
) -> None:
    ended = run(environment, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert words in line
    assert "cret" not in line


def test_an_address_and_a_database_exclude_each_other() -> None:
    ended = run({}, "--url", "http://x", "--database-url", "sqlite:////tmp/x.db")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "not both" in ended.stderr


@pytest.mark.parametrize("ending", ["closed", "SIGTERM"])
def test_it_ends_with_its_client_or_a_signal_though_a_call_is_under_way(ending: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        command = [sys.executable, "-m", "holdfast_worker.cli", "mcp", "--url", f"http://127.0.0.1:{port}"]
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        call = {"name": "system.status", "arguments": {}, "_meta": meta}
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ),
        ) as process:
            try:
                assert process.stdin is not None
                request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                silent.settimeout(PATIENCE)
                connection, _ = silent.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    assert connection.recv(4) == b"POST"
                    if ending == "SIGTERM":
                        process.send_signal(signal.SIGTERM)
                        assert process.wait(PATIENCE) == 0
                    _, err = process.communicate(timeout=PATIENCE)
                assert process.returncode == 0
                assert b"Traceback" not in err
            finally:
                process.kill()
