"""`holdfast mcp` where authentication is on: it speaks for the token that it was given, and for nobody without."""

import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters, types

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.policy import INCLUDED, may_call
from holdfast_core.settings import load_settings
from holdfast_core.states import Role
from holdfast_server.compose import open_services
from holdfast_server.mcp.catalog import TOOLS
from support.servers import start_server
from support.tokens import create_token, create_token_now, role_token

PATIENCE = 30
#: How long a revoked token may still be good (CONTRACT section 4).
REVOKED_SECONDS = 5.0
SYSTEM = "holdfast://system"
UNKNOWN = "hfa_" + "0" * 32 + "_" + "x" * 43
PAUSE = {"mode": "drain", "reason": "r"}


@asynccontextmanager
async def speaking(
    agents: Any,
    url: str,
    mode: str = "auto",
    *,
    heard: list[types.ResourceUpdatedNotification] | None = None,
    **settings: str,
) -> AsyncGenerator[Client]:
    """A client of `holdfast mcp` with `HOLDFAST_AUTH_PROVIDER=token`. `heard` takes the notices."""

    async def hear(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification) and heard is not None:
            heard.append(message)

    command = agents.command("mcp")
    environment = agents.environment(url, **{"auth_provider": "token", **settings})
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=environment)
    async with Client(parameters, mode=mode, message_handler=hear) as client:
        yield client


async def said(client: Client, name: str, arguments: dict[str, Any] | None = None) -> str:
    with anyio.fail_after(PATIENCE):
        (content,) = (await client.call_tool(name, arguments or {})).content
    assert isinstance(content, types.TextContent)
    return content.text


async def revoke(url: str, token_id: Any) -> None:
    """Revoke it in another process's stead: over the database, and nobody else is told."""
    async with open_services(load_settings(database_url=url)) as services:
        await services.access.revoke(LOCAL_OPERATOR, str(token_id))


@pytest.mark.anyio
@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.WORKER])
async def test_it_is_whom_the_token_names(agents: Any, sqlite_url: str, mode: str, role: Role) -> None:
    made = await role_token(sqlite_url, role)
    async with speaking(agents, sqlite_url, mode, token=made.token) as client:
        listed = [tool.name for tool in (await client.list_tools()).tools]
        assert listed == [tool.name for tool in TOOLS if may_call(INCLUDED[role], tool.name)]
        pausing = await said(client, "system.pause", PAUSE)
        assert pausing.startswith("[not_allowed] ") is (role is not Role.OPERATOR)
        if role is Role.OPERATOR:
            assert '"requestedBy":"operator"' in pausing
        if role is Role.WORKER:
            claim = {"workerId": "another", "leaseSeconds": 60}
            assert (await said(client, "queue.claim", claim)).startswith("[not_allowed] This token is bound")


@pytest.mark.anyio
async def test_the_role_narrows_what_the_token_may_do(agents: Any, sqlite_url: str) -> None:
    made = await role_token(sqlite_url, "operator")
    async with speaking(agents, sqlite_url, token=made.token, mcp_role="producer") as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert listed == {tool.name for tool in TOOLS if may_call(INCLUDED[Role.PRODUCER], tool.name)}
        assert "HOLDFAST_MCP_ROLE=producer" in await said(client, "system.pause", PAUSE)
    # It widens nothing.
    viewer = await role_token(sqlite_url, "viewer")
    async with speaking(agents, sqlite_url, token=viewer.token, mcp_role="admin") as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert listed == {tool.name for tool in TOOLS if may_call(INCLUDED[Role.VIEWER], tool.name)}


@pytest.mark.anyio
async def test_after_a_revocation_calls_are_refused_within_five_seconds(
    agents: Any, sqlite_url: str, mode: str
) -> None:
    heard: list[types.ResourceUpdatedNotification] = []
    made = await role_token(sqlite_url, "worker")
    operator = await role_token(sqlite_url, "operator")
    claim = {"workerId": "w", "leaseSeconds": 60, "waitSeconds": 25}
    answers: list[str] = []

    async with (
        speaking(agents, sqlite_url, token=operator.token) as person,
        speaking(agents, sqlite_url, mode, token=made.token, heard=heard) as client,
    ):
        if mode == "legacy":
            subscribing = types.SubscribeRequest(params=types.SubscribeRequestParams(uri=SYSTEM))
            await client.session.send_request(subscribing, types.EmptyResult)
        assert not (await said(client, "system.status")).startswith("[")

        async def wait_for_a_job() -> None:
            answers.append(await said(client, "queue.claim", claim))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_a_job)
            await revoke(sqlite_url, made.id)
            with anyio.fail_after(REVOKED_SECONDS):
                while not answers:
                    await anyio.sleep(0.05)
        assert answers[0].startswith("[not_authenticated] ")
        assert (await said(client, "system.status")).startswith("[not_authenticated] ")
        for listing in (client.list_tools, client.list_resources, client.list_prompts):
            with pytest.raises(MCPError, match=r"^\[not_authenticated\] "):
                await listing(cache_mode="bypass")
        with pytest.raises(MCPError, match=r"^\[not_authenticated\] "):
            await client.read_resource(SYSTEM, cache_mode="bypass")
        assert not (await said(person, "system.pause", PAUSE)).startswith("[")
        assert (await said(client, "system.status")).startswith("[not_authenticated] ")
        assert heard == []


@pytest.mark.anyio
async def test_while_authentication_is_disabled_a_token_is_not_looked_at(
    agents: Any, sqlite_url: str
) -> None:
    for token in (UNKNOWN, "no token\nat all"):
        async with speaking(agents, sqlite_url, auth_provider="disabled", token=token) as client:
            assert '"requestedBy":"local operator"' in await said(client, "system.pause", PAUSE)


@pytest.mark.anyio
async def test_a_forwarder_is_whom_its_token_names_there(agents: Any, sqlite_url: str, mode: str) -> None:
    made = await role_token(sqlite_url, "worker")
    async with start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server:
        command = agents.command("mcp", "--url", server.url)
        parameters = StdioServerParameters(
            command=command[0], args=command[1:], env={"HOLDFAST_TOKEN": made.token}
        )
        async with Client(parameters, mode=mode) as client:
            listed = [tool.name for tool in (await client.list_tools()).tools]
            assert listed == [tool.name for tool in TOOLS if may_call(INCLUDED[Role.WORKER], tool.name)]
            assert (await said(client, "system.pause", PAUSE)).startswith("[not_allowed] w may not pause")
            await revoke(sqlite_url, made.id)
            with anyio.fail_after(REVOKED_SECONDS):
                while not (await said(client, "system.status")).startswith("[not_authenticated] "):
                    await anyio.sleep(0.1)


def refused(agents: Any, url: str, **settings: str) -> str:
    """A start that cannot be: the one line that says so, after what was logged of the store."""
    ended = subprocess.run(
        agents.command("mcp"),
        env=agents.environment(url, **settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        input="",
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (7, ""), ended.stderr
    assert "Traceback" not in ended.stderr
    *_, line = ended.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "HOLDFAST_TOKEN" in line
    if token := settings.get("token"):
        assert token not in ended.stderr
    return line


@pytest.mark.parametrize("token", [None, "", UNKNOWN, "not-a-token"])
def test_without_a_good_token_it_does_not_start(agents: Any, sqlite_url: str, token: str | None) -> None:
    given = {} if token is None else {"token": token}
    line = refused(agents, sqlite_url, auth_provider="token", **given)
    assert "holdfast token create" in line


def test_with_a_token_that_has_ended_it_does_not_start(agents: Any, sqlite_url: str) -> None:
    made = create_token_now(sqlite_url, role="operator", user="somebody")
    anyio.run(revoke, sqlite_url, made.id)
    line = refused(agents, sqlite_url, auth_provider="token", token=made.token)
    assert "revoked" in line


def test_where_the_role_leaves_nothing_it_does_not_start(agents: Any, sqlite_url: str) -> None:
    made = create_token_now(sqlite_url, role="admin", user="somebody")
    line = refused(agents, sqlite_url, auth_provider="token", token=made.token, mcp_role="worker")
    assert "HOLDFAST_MCP_ROLE=worker" in line
    assert "somebody" in line


def test_what_is_no_token_at_all_is_not_shown(agents: Any, sqlite_url: str) -> None:
    ended = subprocess.run(
        agents.command("mcp"),
        env=agents.environment(sqlite_url, auth_provider="token", token="se\ncret"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        input="",
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Error: HOLDFAST_TOKEN holds characters that no token has" in ended.stderr
    assert "cret" not in ended.stderr


@pytest.mark.anyio
async def test_the_token_goes_into_no_log(agents: Any, sqlite_url: str) -> None:
    made = await create_token(sqlite_url, role="operator", user="somebody")
    with subprocess.Popen(
        agents.command("mcp"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=agents.environment(sqlite_url, auth_provider="token", token=made.token, log_format="json"),
    ) as process:
        _, err = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=PATIENCE))
    assert process.returncode == 0
    assert made.token.encode() not in err
