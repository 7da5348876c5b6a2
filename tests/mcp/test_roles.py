"""HOLDFAST_MCP_ROLE: what a server on stdio lists and accepts."""

from typing import Any

import pytest
from mcp import MCPError

from holdfast_server.mcp.catalog import TOOLS
from holdfast_server.mcp.roles import PROMPT_TOOLS, ROLE_TOOLS, may_call

ALL = {tool.name for tool in TOOLS}
#: CONTRACT section 5, last paragraph.
WORKER = {
    "claim",
    "heartbeat",
    "complete",
    "fail",
    "release",
    "log",
    "upload_artifact",
    "cancel_ack",
    "presence",
    "get",
}


def test_each_role_holds_the_one_below_it_and_worker_stands_apart() -> None:
    assert ROLE_TOOLS["viewer"] < ROLE_TOOLS["producer"] < ROLE_TOOLS["operator"]
    assert ROLE_TOOLS["worker"] == {f"queue.{name}" for name in WORKER} | {"system.status", "system.wait"}
    assert not ROLE_TOOLS["worker"] <= ROLE_TOOLS["operator"]


def test_nobody_but_an_operator_may_pause_resume_or_requeue() -> None:
    for tool in ("system.pause", "system.resume", "queue.requeue", "system_pause", "queue_requeue"):
        assert [role for role in ROLE_TOOLS if may_call(role, tool)] == ["operator"]
        assert may_call("admin", tool)
        assert may_call(None, tool)


def test_every_tool_is_admitted_by_some_role() -> None:
    assert set().union(*ROLE_TOOLS.values()) >= ALL


def test_both_spellings_are_understood() -> None:
    for role, tools in ROLE_TOOLS.items():
        for name in ALL:
            assert may_call(role, name) is may_call(role, name.replace(".", "_")) is (name in tools)


@pytest.mark.anyio
@pytest.mark.parametrize("style", ["dot", "underscore"])
@pytest.mark.parametrize("role", [*ROLE_TOOLS, "admin"])
async def test_a_role_is_shown_and_may_call_its_own_tools_only(
    agents: Any, sqlite_url: str, role: Any, style: str
) -> None:
    admitted = ALL if role == "admin" else ROLE_TOOLS[role] & ALL
    mark = "." if style == "dot" else "_"
    async with agents.over_stdio(sqlite_url, mcp_role=role, tool_name_style=style) as tools:
        listed = [tool.name for tool in (await tools.client.list_tools()).tools]
        assert listed == [tool.name.replace(".", mark) for tool in TOOLS if tool.name in admitted]
        for name in sorted(ALL - admitted):
            for spelling in (name, name.replace(".", "_")):
                said = await tools.refused(spelling, {})  # before the arguments are even read
                assert said.startswith(f"[not_allowed] The role {role}"), said
                assert name.replace(".", mark) in said
        assert (await tools.ask("system.status"))["system"]["version"] == 1

        prompts = [prompt.name for prompt in (await tools.client.list_prompts()).prompts]
        assert prompts == [name for name, tool in PROMPT_TOOLS.items() if tool in admitted]
        for name in PROMPT_TOOLS.keys() - set(prompts):
            with pytest.raises(MCPError, match="not_allowed"):
                await tools.client.get_prompt(name)


@pytest.mark.anyio
async def test_a_worker_does_its_work_and_cannot_pause(agents: Any, sqlite_url: str) -> None:
    async with (
        agents.over_stdio(sqlite_url) as producer,
        agents.over_stdio(sqlite_url, "legacy", mcp_role="worker") as worker,
    ):
        job = await producer.ask("queue.enqueue", {"type": "t"})
        claimed = (await worker.ask("queue.claim", {"workerId": "w", "leaseSeconds": 60}))["job"]
        assert claimed["id"] == job["id"]
        done = {"jobId": job["id"], "workerId": "w", "leaseToken": claimed["leaseToken"]}
        assert (await worker.ask("queue.complete", done))["status"] == "succeeded"
        assert "[not_allowed]" in await worker.refused("system.pause", {"mode": "drain", "reason": "x"})
        assert not (await producer.ask("system.status"))["system"]["workersPaused"]


@pytest.mark.anyio
async def test_over_http_the_setting_narrows_nothing(agents: Any, sqlite_url: str) -> None:
    async with agents.over_http(sqlite_url, mcp_role="viewer") as tools:
        assert {tool.name for tool in (await tools.client.list_tools()).tools} == ALL
