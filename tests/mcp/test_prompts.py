"""Prompts: what they walk an agent through, in names that it can call."""

import json
import re
from typing import Any

import pytest
from mcp import MCPError, types

pytestmark = pytest.mark.anyio

TOOL = re.compile(r"\b(?:queue|system)[._][a-z_]+\b(?<!system\.version)")


async def texts_of(tools: Any, name: str, arguments: dict[str, str] | None = None) -> list[str]:
    messages = (await tools.client.get_prompt(name, arguments)).messages
    assert all(message.role == "user" for message in messages)
    assert all(isinstance(message.content, types.TextContent) for message in messages)
    return [message.content.text for message in messages]


async def test_prompts_are_listed_with_their_arguments(
    agents: Any, transport: str, mode: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url, mode) as tools:
        listed = (await tools.client.list_prompts()).prompts
        assert [prompt.name for prompt in listed] == ["upgrade", "why-not-drained"]
        upgrade, why = listed
        assert [(a.name, a.required) for a in upgrade.arguments] == [("reason", False), ("mode", False)]
        assert not why.arguments
        assert all(prompt.title and prompt.description for prompt in listed)


@pytest.mark.requirement("FR-010")
async def test_the_upgrade_goes_from_pause_over_wait_to_a_resume_of_that_very_version(
    agents: Any, transport: str, mode: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url, mode) as tools:
        (text,) = await texts_of(
            tools, "upgrade", {"reason": 'the "big" {one}, system.pause', "mode": "drain"}
        )
        steps = ["Call system.pause", "Call system.wait", "Do the upgrade", "call system.resume"]
        places = [text.index(step) for step in steps]
        assert places == sorted(places)
        assert 'mode drain and reason "the \\"big\\" {one}, system.pause".' in text
        assert "for drained" in text
        for word in ("again and again until reached", "safeToUpgrade", "expectedVersion", "queue.requeue"):
            assert word in text


async def test_the_upgrade_has_defaults_and_waits_for_parked_jobs_after_a_quiesce(
    agents: Any, sqlite_url: str
) -> None:
    async with agents.in_process(sqlite_url) as tools:
        for arguments in (None, {}, {"reason": "  "}):
            (text,) = await texts_of(tools, "upgrade", arguments)
            assert 'mode drain and reason "Upgrade".' in text
        (text,) = await texts_of(tools, "upgrade", {"mode": "quiesce"})
        assert "mode quiesce" in text
        assert "for parked" in text


async def test_why_not_drained_shows_the_status_as_it_is_and_names_the_way_out(
    agents: Any, transport: str, mode: str, database_url: str
) -> None:
    async with agents.connect(transport, database_url, mode) as tools:
        await tools.ask("queue.enqueue", {"type": "t"})
        await tools.ask("queue.claim", {"workerId": "w", "leaseSeconds": 60})
        await tools.ask("system.pause", {"mode": "drain", "reason": "calling system.pause"})
        walk, status = await texts_of(tools, "why-not-drained")
        for name in ("system.status", "queue.list", "queue.requeue", "system.wait"):
            assert name in walk
        assert "status running" in walk
        snapshot = json.loads(status.partition("\n\n")[2])
        assert snapshot["metrics"]["running"] == 1
        assert snapshot["system"]["reason"] == "calling system.pause"
        assert snapshot["system"].keys() == (await tools.ask("system.status"))["system"].keys()


@pytest.mark.parametrize("style", ["dot", "underscore"])
async def test_tools_are_named_as_they_are_listed(
    agents: Any, transport: str, sqlite_url: str, style: str
) -> None:
    async with agents.connect(transport, sqlite_url, tool_name_style=style) as tools:
        listed = {tool.name for tool in (await tools.client.list_tools()).tools}
        words = [prompt.description for prompt in (await tools.client.list_prompts()).prompts]
        for name in ("upgrade", "why-not-drained"):
            words += (await texts_of(tools, name))[:1]
        named = {name for text in words for name in TOOL.findall(text)}
        fields = {"system.workers"}  # system.workersPaused, up to its capital
        assert len(named & listed) >= 6
        assert named - fields <= listed


async def test_what_is_wrong_with_a_prompt_is_told_by_name(agents: Any, mode: str, sqlite_url: str) -> None:
    wrong: list[tuple[str, dict[str, str], str]] = [
        ("upgrades", {}, "Unknown prompt"),
        ("x\x1b[31m" * 50, {}, "Unknown prompt"),
        ("upgrade", {"force": "yes"}, r"\[invalid_request\] 'force'"),
        ("upgrade", {"mode": "stop"}, r"\[invalid_request\] 'mode': is neither drain nor quiesce"),
        ("upgrade", {"reason": "x" * 1_001}, "'reason': is longer than 1,000"),
        ("why-not-drained", {"reason": "x"}, "'reason'"),
    ]
    async with agents.in_process(sqlite_url, mode) as tools:
        for name, arguments, words in wrong:
            with pytest.raises(MCPError, match=words) as error:
                await tools.client.get_prompt(name, arguments)
            assert error.value.code == -32602
            assert error.value.message.isprintable()
