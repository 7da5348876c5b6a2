"""Resources: what they say, and what there is none of."""

import json
import re
from typing import Any

import pytest
from mcp import MCPError

from holdfast_core.policy import INCLUDED, RESOURCES, may, may_call
from holdfast_server.mcp.catalog import TOOLS

pytestmark = pytest.mark.anyio

SYSTEM = "holdfast://system"
PLAYBOOK = "holdfast://playbook"


async def text_of(tools: Any, uri: str) -> tuple[str, str]:
    """The only content at `uri`, and its type."""
    (content,) = (await tools.client.read_resource(uri)).contents
    assert content.uri == uri
    return content.text, content.mime_type


async def test_resources_are_listed_and_the_capability_says_that_they_can_be_subscribed_to(
    agents: Any, transport: str, mode: str, sqlite_url: str
) -> None:
    async with agents.connect(transport, sqlite_url, mode) as tools:
        listed = (await tools.client.list_resources()).resources
        assert [(r.uri, r.mime_type) for r in listed] == [
            (SYSTEM, "application/json"),
            (PLAYBOOK, "text/markdown"),
        ]
        (template,) = (await tools.client.list_resource_templates()).resource_templates
        assert template.uri_template == "holdfast://jobs/{jobId}"
        assert tools.client.server_capabilities.resources.subscribe is True
        for words in (*listed, template):
            assert words.title
            assert words.description


@pytest.mark.requirement("FR-003")
async def test_the_system_is_what_the_status_tool_answers(
    agents: Any, transport: str, mode: str, database_url: str
) -> None:
    async with agents.connect(transport, database_url, mode) as tools:
        await tools.ask("system.pause", {"mode": "quiesce", "reason": "upgrade"})
        text, mime_type = await text_of(tools, SYSTEM)
        assert mime_type == "application/json"
        status = await tools.ask("system.status")
        for snapshot in (read := json.loads(text), status):
            del snapshot["metrics"]["measuredAt"]
        assert read == status
        assert read["system"]["mode"] == "quiesce"


async def test_a_job_is_what_the_get_tool_answers_and_never_shows_its_lease_token(
    agents: Any, transport: str, mode: str, database_url: str
) -> None:
    async with agents.connect(transport, database_url, mode) as tools:
        job = await tools.ask("queue.enqueue", {"type": "t", "payload": {"a": [1]}})
        claimed = await tools.ask("queue.claim", {"workerId": "w", "leaseSeconds": 60})
        text, mime_type = await text_of(tools, f"holdfast://jobs/{job['id']}")
        assert mime_type == "application/json"
        read = json.loads(text)
        assert "leaseToken" not in read
        assert claimed["job"]["leaseToken"] not in text
        got = await tools.ask("queue.get", {"jobId": job["id"]})
        assert read == {name: value for name, value in got.items() if name != "leaseToken"}


@pytest.mark.parametrize(
    "uri",
    [
        "holdfast://jobs/0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90",
        "holdfast://jobs/not-an-id",
        "holdfast://jobs/",
        "holdfast://jobs",
        "holdfast://jobs/../system",
        "holdfast://unknown",
        "holdfast://systems",
        "file:///etc/passwd",
        "x\x1b[31m" * 100,
    ],
)
async def test_an_unknown_resource_is_an_error_of_the_protocol_that_names_it(
    agents: Any, mode: str, sqlite_url: str, uri: str
) -> None:
    async with agents.in_process(sqlite_url, mode) as tools:
        with pytest.raises(MCPError, match="Unknown resource") as error:
            await tools.client.read_resource(uri)
        assert error.value.code == -32602
        assert error.value.data == {"uri": uri}
        assert error.value.message.isprintable()
        assert len(error.value.message) < 1_000


async def test_a_store_that_cannot_be_read_is_said_and_never_shown_as_zeros(
    agents: Any, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast_core.errors import StoreUnavailable
    from holdfast_core.services import PauseService

    async def away(*_: Any) -> None:
        raise StoreUnavailable("The database does not answer.")

    async with agents.in_process(sqlite_url) as tools:
        monkeypatch.setattr(PauseService, "status", away)
        with pytest.raises(MCPError, match=r"^\[store_unavailable\] The database does not answer"):
            await tools.client.read_resource(SYSTEM)


@pytest.mark.parametrize(("style", "mark"), [("dot", "."), ("underscore", "_")], ids=["dot", "underscore"])
async def test_the_playbook_names_tools_as_they_are_listed(
    agents: Any, transport: str, sqlite_url: str, style: str, mark: str
) -> None:
    async with agents.connect(transport, sqlite_url, tool_name_style=style) as tools:
        text, mime_type = await text_of(tools, PLAYBOOK)
        assert mime_type == "text/markdown"
        listed = {tool.name for tool in (await tools.client.list_tools()).tools}
        named = set(re.findall(rf"`((?:queue|system)\{mark}\w+)`", text))
        fields = {"system.workersPaused", "system.requestedBy", "system.reason", "system.version"}
        assert named - fields <= listed
        for step in ("pause", "wait", "resume", "status", "history"):
            assert f"system{mark}{step}" in named
        assert f"queue{mark}requeue" in named
        other = "_" if mark == "." else "."
        assert not [t.name for t in TOOLS if t.name.replace(".", other) in text]


def test_every_role_may_call_what_the_resources_show() -> None:
    shown_by = {SYSTEM: "system.status", "holdfast://jobs/{jobId}": "queue.get"}
    for role in INCLUDED:
        for uri, tool in shown_by.items():
            assert may({role}, RESOURCES[uri]) is may_call({role}, tool) is True, role
    assert RESOURCES.keys() - shown_by.keys() == {PLAYBOOK}  # which shows nothing of the system's
