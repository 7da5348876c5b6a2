"""Who may do what over MCP: what the policy's table says is what the wire answers, to each role and in both eras."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError, types
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost

from holdfast_core.policy import INCLUDED, PROMPTS, TOOLS, may_call
from holdfast_core.settings import load_settings
from holdfast_core.states import Role
from holdfast_server.mcp import build_mcp_server
from holdfast_server.mcp.catalog import TOOLS as CATALOG
from support.servers import Server, start_server
from support.tokens import bearer, create_token, role_token

pytestmark = pytest.mark.anyio

PATIENCE = 30
#: How long a revoked token may still be good (CONTRACT section 4).
REVOKED_SECONDS = 5.0
SYSTEM = "holdfast://system"
WORKER_ID = "w"
NOBODYS_JOB = "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"
HOLDER = {"jobId": NOBODYS_JOB, "workerId": WORKER_ID}
#: For each tool arguments that are well formed.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "queue.enqueue": {"type": "t"},
    "queue.get": {"jobId": NOBODYS_JOB},
    "queue.list": {},
    "queue.cancel": {"jobId": NOBODYS_JOB, "reason": "r"},
    "queue.retry": {"jobId": NOBODYS_JOB},
    "queue.requeue": {"jobId": NOBODYS_JOB, "reason": "r"},
    "queue.events": {"jobId": NOBODYS_JOB},
    "queue.claim": {"workerId": WORKER_ID, "leaseSeconds": 60},
    "queue.heartbeat": {**HOLDER, "leaseSeconds": 60},
    "queue.complete": HOLDER,
    "queue.fail": {**HOLDER, "errorMessage": "e"},
    "queue.release": HOLDER,
    "queue.cancel_ack": HOLDER,
    "queue.presence": {"workerId": WORKER_ID, "autoEnabled": True},
    "queue.log": {**HOLDER, "message": "m"},
    "queue.upload_artifact": {**HOLDER, "name": "n", "contentBase64": "AA=="},
    "system.status": {},
    "system.pause": {"mode": "drain", "reason": "r"},
    "system.resume": {"reason": "r"},
    "system.wait": {"for": "running", "timeoutSeconds": 0},
    "system.history": {},
}
ACCEPT = {"accept": "application/json, text/event-stream"}


@asynccontextmanager
async def caller(
    server: Server, token: str, mode: str = "auto", *, heard: list[int] | None = None
) -> AsyncGenerator[Client]:
    """A client that sends this token. `heard` takes the number of each notice."""
    numbers = count(1)

    async def hear(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification) and heard is not None:
            heard.append(next(numbers))

    async with (
        httpx2.AsyncClient(headers=bearer(token), timeout=PATIENCE) as http,
        Client(
            streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode, message_handler=hear
        ) as client,
    ):
        yield client


async def said(client: Client, name: str, arguments: dict[str, Any]) -> str:
    """What a tool answers, as text: the answer, or the error."""
    with anyio.fail_after(PATIENCE):
        result = await client.call_tool(name, arguments)
    (content,) = result.content
    assert isinstance(content, types.TextContent)
    assert result.is_error is content.text.startswith("[")
    return content.text


async def ask(client: Client, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    text = await said(client, name, arguments)
    assert not text.startswith("["), text
    answer: dict[str, Any] = json.loads(text)
    return answer


async def revoke(server: Server, admin: str, token_id: Any) -> None:
    async with httpx2.AsyncClient() as http:
        answer = await http.delete(f"{server.url}/api/tokens/{token_id}", headers=bearer(admin))
    assert answer.status_code == 200, answer.text


# The table


@pytest.mark.requirement("SEC-01")
async def test_for_every_role_and_tool_the_wire_answers_what_the_table_says(
    sqlite_url: str, mode: str
) -> None:
    assert ARGUMENTS.keys() == TOOLS.keys()
    tokens = {role: (await role_token(sqlite_url, role, WORKER_ID)).token for role in Role}
    async with start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server:
        for role, token in tokens.items():
            admitted = [tool.name for tool in CATALOG if may_call(INCLUDED[role], tool.name)]
            async with caller(server, token, mode) as client:
                listed = [tool.name for tool in (await client.list_tools()).tools]
                assert listed == admitted, role
                for name, arguments in ARGUMENTS.items():
                    for spelling in (name, name.replace(".", "_")):
                        text = await said(client, spelling, arguments)
                        assert text.startswith("[not_allowed] ") is (name not in admitted), (role, text)
                        if name not in admitted and not name.startswith(("system.pause", "system.resume")):
                            assert f"call {name}: that takes the role " in text
                with pytest.raises(MCPError, match="Unknown tool"):
                    await client.call_tool("queue.purge", {})


async def test_for_every_role_resources_and_prompts_are_those_of_the_table(
    sqlite_url: str, mode: str
) -> None:
    tokens = {role: (await role_token(sqlite_url, role, WORKER_ID)).token for role in Role}
    async with start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server:
        for role, token in tokens.items():
            async with caller(server, token, mode) as client:
                uris = [resource.uri for resource in (await client.list_resources()).resources]
                assert uris == [SYSTEM, "holdfast://playbook"]
                for uri in uris:
                    assert (await client.read_resource(uri)).contents
                (template,) = (await client.list_resource_templates()).resource_templates
                assert template.uri_template == "holdfast://jobs/{jobId}"
                prompts = [prompt.name for prompt in (await client.list_prompts()).prompts]
                assert prompts == [n for n, tool in PROMPTS.items() if may_call(INCLUDED[role], tool)], role
                for name, tool in PROMPTS.items():
                    if name in prompts:
                        assert (await client.get_prompt(name)).messages
                        continue
                    with pytest.raises(MCPError, match=r"^\[not_allowed\] .* takes the role") as refused:
                        await client.get_prompt(name)
                    assert not may_call(INCLUDED[role], tool)
                    assert refused.value.code == types.INVALID_PARAMS


@pytest.mark.requirement("SEC-01")
async def test_a_worker_cannot_pause_or_resume_and_its_attempts_are_audited(
    database_url: str, mode: str
) -> None:
    worker = (await role_token(database_url, "worker", WORKER_ID)).token
    operator = (await role_token(database_url, "operator")).token
    async with (
        start_server(database_url, HOLDFAST_AUTH_PROVIDER="token") as server,
        caller(server, worker, mode) as client,
        caller(server, operator, mode) as person,
    ):
        assert (await said(client, "system.pause", ARGUMENTS["system.pause"])).startswith("[not_allowed] ")
        assert not (await ask(person, "system.status", {}))["system"]["workersPaused"]
        await ask(person, "system.pause", {"mode": "drain", "reason": "an upgrade"})
        assert (await said(client, "system_resume", ARGUMENTS["system.resume"])).startswith("[not_allowed] ")
        assert (await ask(person, "system.status", {}))["system"]["workersPaused"]
        # What is not well formed leaves no trace, as over REST.
        assert (await said(client, "system.pause", {"mode": "drain"})).startswith("[invalid_request] ")
        events = (await ask(person, "system.history", {}))["items"]
        assert [(e["action"], e["outcome"], e["code"], e["actor"]) for e in events] == [
            ("resume", "refused", "not_allowed", WORKER_ID),
            ("pause", "changed", None, "operator"),
            ("pause", "refused", "not_allowed", WORKER_ID),
        ]


async def test_a_workers_token_is_bound_to_its_id_its_types_and_its_own_jobs(
    sqlite_url: str, mode: str
) -> None:
    producer = (await role_token(sqlite_url, "producer")).token
    bound = await create_token(sqlite_url, workerId="w-1", types=["a", "b"], capabilities=["gpu"])
    other = await create_token(sqlite_url, workerId="w-2")
    async with (
        start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server,
        caller(server, producer, mode) as person,
        caller(server, bound.token, mode) as mine,
        caller(server, other.token, mode) as another,
    ):
        elsewhere = await ask(person, "queue.enqueue", {"type": "c"})
        job = await ask(person, "queue.enqueue", {"type": "b"})
        claim = {"workerId": "w-1", "leaseSeconds": 60}
        for beyond in ({"workerId": "w-2"}, {"allowedTypes": ["a", "c"]}, {"workerCapabilities": ["cpu"]}):
            text = await said(mine, "queue.claim", {**claim, **beyond})
            assert text.startswith("[not_allowed] This token is bound to "), text
        claimed = (await ask(mine, "queue.claim", claim))["job"]
        assert claimed["id"] == job["id"]  # though the other has waited for longer
        idle = {"workerId": "w-2", "autoEnabled": True}
        assert (await said(mine, "queue.presence", idle)).startswith("[not_allowed] ")

        lease = {"jobId": job["id"], "leaseToken": claimed["leaseToken"]}
        in_its_name = {**lease, "workerId": "w-1"}
        for name in ("queue.heartbeat", "queue.complete", "queue.fail", "queue.release", "queue.cancel_ack"):
            spoken = {**ARGUMENTS[name], **in_its_name}
            assert (await said(another, name, spoken)).startswith("[not_allowed] "), name
        for name in ("queue.log", "queue.upload_artifact"):
            spoken = {**ARGUMENTS[name], **in_its_name}
            assert (await said(another, name, spoken)).startswith("[not_allowed] "), name

        for job_id in (job["id"], elsewhere["id"]):
            assert (await said(another, "queue.get", {"jobId": job_id})).startswith("[job_not_found] ")
            with pytest.raises(MCPError, match="Unknown resource"):
                await another.read_resource(f"holdfast://jobs/{job_id}")
        assert (await ask(mine, "queue.get", {"jobId": job["id"]}))["id"] == job["id"]
        assert (await mine.read_resource(f"holdfast://jobs/{job['id']}")).contents
        assert (await ask(mine, "queue.complete", in_its_name))["status"] == "succeeded"


# What lasts


async def test_a_subscription_ends_within_five_seconds_of_its_token(sqlite_url: str) -> None:
    admin = (await role_token(sqlite_url, "admin")).token
    watcher = await role_token(sqlite_url, "worker", WORKER_ID)
    heard: list[int] = []
    async with (
        start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server,
        caller(server, admin) as person,
        caller(server, watcher.token, heard=heard) as client,
        client.listen(resource_subscriptions=[SYSTEM]) as listening,
    ):
        await ask(person, "system.pause", {"mode": "drain", "reason": "r"})
        with anyio.fail_after(PATIENCE):
            while not heard:
                await anyio.sleep(0.01)
        await revoke(server, admin, watcher.id)
        with anyio.fail_after(REVOKED_SECONDS), pytest.raises(SubscriptionLost):
            async for _ in listening:
                pass
        await ask(person, "system.resume", {"reason": "r"})
        assert heard == [1]


@asynccontextmanager
async def session(server: Server, token: str) -> AsyncGenerator[httpx2.AsyncClient]:
    """A session of an older protocol, spoken by hand."""
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    }
    async with httpx2.AsyncClient(
        base_url=server.url, headers=ACCEPT | bearer(token), timeout=PATIENCE
    ) as http:
        begun = await http.post("/mcp", json=message("initialize", hello, 1))
        assert begun.status_code == 200, begun.text
        http.headers["mcp-session-id"] = begun.headers["mcp-session-id"]
        http.headers["mcp-protocol-version"] = "2025-11-25"
        assert (await http.post("/mcp", json=message("notifications/initialized", {}))).status_code == 202
        yield http


def message(method: str, params: dict[str, Any], number: int | None = None) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "method": method, "params": params}
    return body if number is None else body | {"id": number}


def calling(name: str, arguments: dict[str, Any], number: int = 2) -> dict[str, Any]:
    return message("tools/call", {"name": name, "arguments": arguments}, number)


async def test_streams_and_calls_of_a_session_end_within_five_seconds_of_its_token(sqlite_url: str) -> None:
    admin = (await role_token(sqlite_url, "admin")).token
    producer = (await role_token(sqlite_url, "producer")).token
    worker = await role_token(sqlite_url, "worker", WORKER_ID)
    claim = {"workerId": WORKER_ID, "leaseSeconds": 60, "waitSeconds": 25}
    async with (
        start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server,
        session(server, worker.token) as http,
        http.stream("GET", "/mcp") as notices,
        http.stream("POST", "/mcp", json=calling("queue.claim", claim)) as waiting,
    ):
        assert (notices.status_code, waiting.status_code) == (200, 200)
        subscribing = await http.post("/mcp", json=message("resources/subscribe", {"uri": SYSTEM}, 3))
        assert '"error"' not in subscribing.text
        await revoke(server, admin, worker.id)
        with anyio.fail_after(REVOKED_SECONDS):
            assert await notices.aread() == b""
            assert b"job" not in await waiting.aread()
        assert (await http.post("/mcp", json=calling("system.status", {}))).status_code == 401
        async with caller(server, producer) as person:
            await ask(person, "queue.enqueue", {"type": "t"})
            # The claim that waited does not get it.
            assert (await ask(person, "system.status", {}))["metrics"]["queued"] == 1


async def test_a_call_that_waits_ends_with_its_token_and_takes_no_job(sqlite_url: str) -> None:
    admin = (await role_token(sqlite_url, "admin")).token
    producer = (await role_token(sqlite_url, "producer")).token
    worker = await role_token(sqlite_url, "worker", WORKER_ID)
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    claim = {"workerId": WORKER_ID, "leaseSeconds": 60, "waitSeconds": 25}
    call = message("tools/call", {"name": "queue.claim", "arguments": claim, "_meta": meta}, 1)
    headers = ACCEPT | {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "queue.claim",
    }
    answers: list[httpx2.Response] = []
    async with (
        start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server,
        httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=PATIENCE) as http,
        caller(server, producer) as person,
    ):

        async def wait_for_a_job() -> None:
            answers.append(await http.post("/mcp", json=call, headers=bearer(worker)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_a_job)
            with anyio.fail_after(PATIENCE):
                while not (await ask(person, "system.status", {}))["workers"]["connected"]:
                    await anyio.sleep(0.05)
            await revoke(server, admin, worker.id)
            with anyio.fail_after(REVOKED_SECONDS):
                while not answers:
                    await anyio.sleep(0.05)
        assert answers[0].status_code == 401
        assert answers[0].json()["code"] == "not_authenticated"
        await ask(person, "queue.enqueue", {"type": "t"})
        assert (await ask(person, "system.status", {}))["metrics"]["queued"] == 1


async def test_a_session_belongs_to_the_principal_that_opened_it(sqlite_url: str) -> None:
    one = await role_token(sqlite_url, "operator")
    again = await create_token(sqlite_url, role="viewer", user="operator")
    others = [
        await create_token(sqlite_url, role="operator", user="somebody else"),
        await role_token(sqlite_url, "worker", "operator"),  # of the same name, but no user
    ]
    async with (
        start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server,
        session(server, one.token) as http,
    ):
        for token in others:
            for method, body in (
                ("POST", calling("system.status", {})),
                ("GET", None),
                ("DELETE", None),
            ):
                answer = await http.request(method, "/mcp", json=body, headers=bearer(token))
                assert answer.status_code == 404, method
        assert (await http.post("/mcp", json=calling("system.status", {}))).status_code == 200
        # Each message is its own sender's: the same user with a lesser token may do less.
        answer = await http.post("/mcp", json=calling("system.pause", ARGUMENTS["system.pause"]))
        assert "[not_allowed]" not in answer.text
        resuming = calling("system.resume", ARGUMENTS["system.resume"])
        answer = await http.post("/mcp", json=resuming, headers=bearer(again))
        assert answer.status_code == 200
        assert "[not_allowed]" in answer.text


@pytest.mark.parametrize("token", [None, "nonsense", "hfa_" + "0" * 32 + "_" + "x" * 43, "a.b.c"])
async def test_nobody_is_told_to_say_who_it_is(sqlite_url: str, token: str | None) -> None:
    headers = ACCEPT | ({} if token is None else {"authorization": f"Bearer {token}"})
    async with (
        start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server,
        httpx2.AsyncClient(base_url=server.url, headers=headers) as http,
    ):
        for method in ("POST", "GET", "DELETE"):
            answer = await http.request(method, "/mcp", json={} if method == "POST" else None)
            assert answer.status_code == 401
            assert answer.json()["code"] == "not_authenticated"
            challenge = answer.headers["www-authenticate"]
            assert challenge.startswith('Bearer realm="holdfast"')
            assert ("invalid_token" in challenge) is (token is not None)
            assert "resource_metadata" not in challenge  # nobody but us makes tokens
        for path in ("", "/mcp"):
            metadata = await http.get(f"/.well-known/oauth-protected-resource{path}")
            assert metadata.status_code == 404
            assert metadata.json()["code"] == "not_found"


async def test_a_server_that_is_told_of_nobody_serves_nobody(sqlite_url: str, mode: str) -> None:
    server = build_mcp_server(
        lambda: pytest.fail("it has reached the services"), load_settings(database_url=sqlite_url)
    )
    async with Client(server, mode=mode) as client:
        assert (await said(client, "system.status", {})).startswith("[internal_error] ")
        for listing in (client.list_tools, client.list_resources, client.list_prompts):
            with pytest.raises(MCPError, match="its log says why"):
                await listing()
