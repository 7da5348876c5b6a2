"""HOLDFAST_MCP_ROLE: what a server on stdio lists and accepts of what its caller may do."""

from typing import Any

import pytest
from mcp import MCPError

from holdfast_core.policy import INCLUDED, PROMPTS, TOOLS, Permission, may_call
from holdfast_core.states import Role
from holdfast_server.mcp.catalog import TOOLS as CATALOG

ORDER = [tool.name for tool in CATALOG]
ADMITTED = {role: {name for name in TOOLS if may_call(INCLUDED[role], name)} for role in Role}
#: Whose refusal the audit log shows, so that it comes from the service, after the arguments were read.
TOGGLES = {
    "system.pause": {"mode": "drain", "reason": "x"},
    "system.resume": {"reason": "x"},
}
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


def test_the_table_and_the_catalog_have_the_same_tools() -> None:
    assert TOOLS.keys() == set(ORDER)
    assert {name for name, permission in TOOLS.items() if permission is Permission.TOGGLE} == TOGGLES.keys()


def test_each_role_holds_the_one_below_it_and_worker_stands_apart() -> None:
    assert ADMITTED[Role.VIEWER] < ADMITTED[Role.PRODUCER] < ADMITTED[Role.OPERATOR]
    assert ADMITTED[Role.OPERATOR] == ADMITTED[Role.ADMIN]
    assert ADMITTED[Role.WORKER] == {f"queue.{name}" for name in WORKER} | {"system.status", "system.wait"}
    assert ADMITTED[Role.WORKER] & ADMITTED[Role.ADMIN] == {"queue.get", "system.status", "system.wait"}


def test_nobody_below_an_operator_may_pause_resume_or_requeue() -> None:
    for tool in ("system.pause", "system.resume", "queue.requeue", "system_pause", "queue_requeue"):
        assert [role for role in Role if may_call({role}, tool)] == [Role.OPERATOR, Role.ADMIN]
        assert may_call(None, tool)
        assert not may_call(frozenset(), tool)


def test_every_tool_is_admitted_by_some_role() -> None:
    assert set().union(*ADMITTED.values()) == set(ORDER)


def test_both_spellings_are_understood() -> None:
    for role, tools in ADMITTED.items():
        for name in ORDER:
            assert may_call({role}, name) is may_call({role}, name.replace(".", "_")) is (name in tools)


@pytest.mark.anyio
@pytest.mark.parametrize("style", ["dot", "underscore"])
@pytest.mark.parametrize("role", list(Role))
async def test_a_role_is_shown_and_may_call_its_own_tools_only(
    agents: Any, sqlite_url: str, role: Role, style: str
) -> None:
    admitted = ADMITTED[role]
    mark = "." if style == "dot" else "_"
    async with agents.over_stdio(sqlite_url, mcp_role=role, tool_name_style=style) as tools:
        listed = [tool.name for tool in (await tools.client.list_tools()).tools]
        assert listed == [name.replace(".", mark) for name in ORDER if name in admitted]
        for name in sorted(set(ORDER) - admitted):
            for spelling in (name, name.replace(".", "_")):
                # Before the arguments are even read, but for the toggles.
                said = await tools.refused(spelling, TOGGLES.get(name, {}))
                assert said.startswith("[not_allowed] local operator may not "), said
                assert f"HOLDFAST_MCP_ROLE={role}" in said
                if name not in TOGGLES:
                    assert f"call {name.replace('.', mark)}: that takes the role " in said
        assert (await tools.ask("system.status"))["system"]["version"] == 1

        prompts = [prompt.name for prompt in (await tools.client.list_prompts()).prompts]
        assert prompts == [name for name, tool in PROMPTS.items() if tool in admitted]
        for name in PROMPTS.keys() - set(prompts):
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
        assert "[not_allowed]" in await worker.refused("system.pause", TOGGLES["system.pause"])
        assert not (await producer.ask("system.status"))["system"]["workersPaused"]
        (attempt,) = (await producer.ask("system.history", {"outcome": "refused"}))["items"]
        assert (attempt["action"], attempt["code"]) == ("pause", "not_allowed")


@pytest.mark.anyio
async def test_over_http_the_setting_narrows_nothing(agents: Any, sqlite_url: str) -> None:
    async with agents.over_http(sqlite_url, mcp_role="viewer") as tools:
        assert [tool.name for tool in (await tools.client.list_tools()).tools] == ORDER
