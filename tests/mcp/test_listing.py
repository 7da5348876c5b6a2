"""What a client is shown: the tools, their order, their words and their schemas."""

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp import Client, MCPError

from holdfast_server.mcp import create_mcp_endpoint
from holdfast_server.mcp.catalog import listing
from holdfast_server.mcp.words import MAX_INSTRUCTIONS

pytestmark = pytest.mark.anyio

ORDER = [
    "queue.enqueue",
    "queue.get",
    "queue.list",
    "queue.cancel",
    "queue.retry",
    "queue.requeue",
    "queue.events",
    "queue.claim",
    "queue.heartbeat",
    "queue.complete",
    "queue.fail",
    "queue.release",
    "queue.cancel_ack",
    "queue.presence",
    "queue.log",
    "queue.upload_artifact",
    "system.status",
    "system.pause",
    "system.resume",
    "system.wait",
    "system.history",
]
UNDERSCORED = [name.replace(".", "_") for name in ORDER]
READS = {"queue.get", "queue.list", "queue.events", "system.status", "system.wait", "system.history"}
DESTROYS = {"queue.cancel", "queue.requeue"}
IDEMPOTENT = READS | {
    "queue.cancel",
    "queue.heartbeat",
    "queue.complete",
    "queue.fail",
    "queue.release",
    "queue.cancel_ack",
    "queue.presence",
    "queue.upload_artifact",
    "system.pause",
}
TOOLS = pytest.mark.parametrize("tool", listing("dot"), ids=lambda tool: tool.name)


async def test_the_tools_come_in_a_fixed_order_over_each_transport(
    agents: Any, transport: str, mode: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url, mode) as tools:
        listed = (await tools.client.list_tools()).tools
        assert [tool.name for tool in listed] == ORDER
        assert [t.model_dump() for t in listed] == [t.model_dump() for t in listing("dot")]
        assert len(tools.client.instructions) <= MAX_INSTRUCTIONS
        assert "queue.claim" in tools.client.instructions


@TOOLS
def test_every_tool_has_all_four_annotations_and_a_title(tool: Any) -> None:
    hints = tool.annotations
    assert hints.title == tool.title
    assert hints.read_only_hint is (tool.name in READS)
    assert hints.destructive_hint is (tool.name in DESTROYS)
    assert hints.idempotent_hint is (tool.name in IDEMPOTENT)
    assert hints.open_world_hint is False


@TOOLS
def test_schemas_are_valid_and_portable(tool: Any) -> None:
    for schema in (tool.input_schema, tool.output_schema):
        Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        assert not {"$ref", "$defs", "title", "oneOf", "allOf"} & keywords(schema)
    assert "anyOf" not in keywords(tool.input_schema)
    assert tool.input_schema["additionalProperties"] is False
    assert '"additionalProperties": false' not in json.dumps(tool.output_schema)


@TOOLS
def test_every_argument_is_described_with_its_limits(tool: Any) -> None:
    # One client drops these keywords before the model sees the schema.
    for name, schema in tool.input_schema["properties"].items():
        words = schema["description"]
        assert re.match(r"[A-Za-z]", words), name
        for keyword in ("minimum", "maximum", "maxLength", "maxItems", "default"):
            if schema.get(keyword) not in (None, False):
                limit = schema[keyword]
                assert (limit if isinstance(limit, str) else f"{limit:,}") in words, (name, keyword)
        if "pattern" in schema:
            assert schema["pattern"] in words, name


def keywords(schema: Any) -> set[str]:
    """The keywords in a schema; names of properties are none."""
    if isinstance(schema, list):
        return set().union(*map(keywords, schema)) if schema else set()
    if not isinstance(schema, dict):
        return set()
    found = set(schema)
    for key, value in schema.items():
        found |= set().union(*map(keywords, value.values())) if key == "properties" else keywords(value)
    return found


async def test_one_spelling_is_listed_and_both_are_accepted(
    agents: Any, transport: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url, tool_name_style="underscore") as tools:
        listed = (await tools.client.list_tools()).tools
        assert [tool.name for tool in listed] == UNDERSCORED
        for tool in listed:
            assert not re.search(r"\b(queue|system)\.[a-z_]+\b(?<!system\.mode)", told(tool)), tool.name
        assert "queue_claim" in tools.client.instructions
        assert "queue.claim" not in tools.client.instructions
        for name in ("system.status", "system_status"):
            assert (await tools.ask(name))["system"]["version"] == 1
        assert "queue_list" in await tools.refused("queue.get", {"jobId": "unknown"})


def told(tool: Any) -> str:
    """All words about a tool, without those that are fields of an answer."""
    words = [tool.description, *(field["description"] for field in tool.input_schema["properties"].values())]
    return re.sub(r"system\.(workersPaused|version|mode)", "", " ".join(words))


async def test_the_address_may_choose_the_spelling(agents: Any, mode: str, sqlite_url: str) -> None:
    async with agents.http_server(sqlite_url) as url:
        async with Client(f"{url}?names=underscore", mode=mode) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == UNDERSCORED
            assert not (await client.call_tool("queue.list", {})).is_error
        async with Client(url, mode=mode) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ORDER
        async with Client(f"{url}?names=dashes", mode=mode) as client:
            with pytest.raises(MCPError, match="dot or underscore"):
                await client.list_tools()


async def test_an_unknown_tool_is_an_error_of_the_protocol(agents: Any, mode: str, sqlite_url: str) -> None:
    async with agents.in_process(sqlite_url, mode) as tools:
        for name in ("queue.purge", "queue-claim", "QUEUE.CLAIM", "", "x\x1b[31m" * 50):
            with pytest.raises(MCPError, match="Unknown tool") as error:
                await tools.client.call_tool(name, {})
            assert error.value.code == -32602
            assert error.value.message.isprintable()
            assert len(error.value.message) < 400


def test_an_endpoint_is_bound_in_body_sessions_and_idle_time() -> None:
    from holdfast_core.settings import load_settings
    from holdfast_server.mcp import build_mcp_server, http

    settings = load_settings(database_url="sqlite:////nowhere.db")
    endpoint = create_mcp_endpoint(build_mcp_server(lambda: pytest.fail("unused"), settings), settings)
    for manager in (endpoint.streaming, endpoint.plain):
        assert manager.max_request_body_size == http.MAX_BODY_BYTES == 1_048_576
    assert endpoint.streaming.max_sessions == http.MAX_SESSIONS
    assert endpoint.streaming.session_idle_timeout == http.SESSION_IDLE_SECONDS
