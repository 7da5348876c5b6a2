"""Codex, through its app server: how it sees and calls our tools. No model, no login and no network take part."""

import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from clients.harness import INSTALLED, Child, environment, node

SCRIPT = INSTALLED / "node_modules" / "@openai" / "codex" / "bin" / "codex.js"

#: The model's provider is an address at which nobody is, and what Codex would fetch by itself is turned off.
CONFIG = """
check_for_update_on_startup = false
model_provider = "nobody"

[analytics]
enabled = false

[features]
apps = false
plugins = false

[model_providers.nobody]
name = "nobody"
base_url = "http://127.0.0.1:9/v1"
"""


def of_ours(*arguments: str) -> str:
    """What `holdfast mcp-config` prints for Codex."""
    command = [sys.executable, "-m", "holdfast_worker.cli", "mcp-config", "--client", "codex", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Codex:
    """A conversation with the app server: JSON-RPC in which it also tells of itself, and that is passed over."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._requests = 0
        self.request("initialize", clientInfo={"name": "tests", "title": "Tests", "version": "1"})
        child.send({"method": "initialized"})

    def request(self, method: str, **params: Any) -> Any:
        self._requests += 1
        self._child.send({"id": self._requests, "method": method, "params": params})
        while True:
            message = self._child.receive()
            if message.get("id") == self._requests and "method" not in message:
                assert "result" in message, message
                return message["result"]


@pytest.fixture
def codex(url: str, sqlite_url: str, home: Path) -> Generator[Codex]:
    """The app server, which knows us twice, as a command and by address, by what we print for it."""
    remote = of_ours("--name", "remote", "--url", url.removesuffix("/mcp"), "--no-token")
    local = of_ours("--name", "local")
    assert local.splitlines()[-2] == "[mcp_servers.local.env]"
    config = "\n".join([CONFIG, remote, local, f"HOLDFAST_DATABASE_URL = {json.dumps(sqlite_url)}"])
    (home / "config.toml").write_text(config, encoding="utf-8")
    with Child(
        [node(), str(SCRIPT), "app-server"], environment(home, CODEX_HOME=str(home)), cwd=home
    ) as child:
        yield Codex(child)


def test_codex_lists_the_tools_and_calls_them(codex: Codex, home: Path) -> None:
    servers = {server["name"]: server for server in codex.request("mcpServerStatus/list")["data"]}
    for name in ("local", "remote"):
        server = servers[name]
        assert server["toolsError"] is None
        assert server["serverInfo"]["name"] == "holdfast"
        assert {"queue_enqueue", "queue_claim", "system_pause"} <= server["tools"].keys()
        assert {"holdfast://system", "holdfast://playbook"} <= {r["uri"] for r in server["resources"]}

    thread = codex.request("thread/start", ephemeral=True, cwd=str(home))["thread"]["id"]
    for name in ("local", "remote"):

        def call(tool: str, server: str = name, **arguments: Any) -> Any:
            params = {"threadId": thread, "server": server, "tool": tool, "arguments": arguments}
            return codex.request("mcpServer/tool/call", **params)

        status = call("system.status")
        assert status["structuredContent"]["system"]["workersPaused"] is False
        # Both spellings, since Codex shows its model underscores where there are dots.
        assert call("system_status")["structuredContent"]["system"] == status["structuredContent"]["system"]
        job = call("queue.enqueue", type="review", payload={"pull": 7})["structuredContent"]
        assert (job["type"], job["payload"], job["status"]) == ("review", {"pull": 7}, "queued")
        refused = call("queue.enqueue", kind="review")
        assert refused["isError"] is True
        assert refused["content"][0]["text"].startswith("[invalid_request] ")
