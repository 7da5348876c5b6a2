"""The MCP Inspector's command line: what a developer points at a server to look at it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.harness import ROOT, run_node

SCRIPT = "@modelcontextprotocol/inspector/clients/launcher/build/index.js"

Inspect = Callable[..., Any]


@pytest.fixture(params=["http", "stdio"])
def inspect(request: pytest.FixtureRequest, sqlite_url: str, home: Path) -> Inspect:
    """One request through the Inspector, over this transport: the answer that it prints."""
    if request.param == "http":
        url = request.getfixturevalue("url")
        server = ["--transport", "http", "--server-url", f"{url}?names=underscore"]
    else:
        shipped = ["--config", str(ROOT / "mcp.json"), "--server", "holdfast"]
        server = [*shipped, "-e", f"HOLDFAST_DATABASE_URL={sqlite_url}"]

    def inspect(method: str, *options: str) -> Any:
        arguments = ["--cli", *server, "--method", method, *options, "--format", "json"]
        done = run_node(SCRIPT, *arguments, home=home)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return inspect


def test_the_tools_are_listed_and_it_finds_no_fault_with_their_schemas(inspect: Inspect) -> None:
    answer = inspect("tools/list", "--strict", "--protocol-era", "auto")
    assert {"queue_enqueue", "queue_claim", "system_pause"} <= {t["name"] for t in answer["result"]["tools"]}
    assert answer.keys() == {"result"}, "with --strict, what it finds stands beside the result"


def test_tools_answer_by_the_names_that_are_listed(inspect: Inspect) -> None:
    status = inspect("tools/call", "--tool-name", "system_status")["result"]
    assert status["structuredContent"]["system"]["workersPaused"] is False
    arguments = json.dumps({"type": "inspected", "payload": {"pull": 7}})
    options = ["--tool-name", "queue_enqueue", "--tool-args-json", arguments, "--protocol-era", "auto"]
    job = inspect("tools/call", *options)["result"]["structuredContent"]
    assert (job["type"], job["payload"], job["status"]) == ("inspected", {"pull": 7}, "queued")


def test_resources_and_prompts_are_listed(inspect: Inspect) -> None:
    resources = inspect("resources/list")["result"]["resources"]
    assert {"holdfast://system", "holdfast://playbook"} <= {resource["uri"] for resource in resources}
    prompts = inspect("prompts/list", "--protocol-era", "auto")["result"]["prompts"]
    assert {prompt["name"] for prompt in prompts} == {"upgrade", "why-not-drained"}
