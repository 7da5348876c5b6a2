"""`holdfast mcp`: nothing but the protocol on stdout, and an end in time."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, types

PATIENCE = 30
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Child:
    """A running `holdfast mcp`, spoken to line by line."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def call(self, name: str, arguments: dict[str, Any], number: int = 1) -> None:
        params = {"name": name, "arguments": arguments, "_meta": ENVELOPE}
        self.send(
            json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()
        )

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> tuple[int, bytes, bytes]:
        """Exit code, and what else came on stdout and stderr."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture
def child(agents: Any, sqlite_url: str) -> Generator[Child]:
    with started(agents, sqlite_url) as child:
        yield child


@contextmanager
def started(agents: Any, url: str, **settings: str) -> Generator[Child]:
    with subprocess.Popen(
        agents.command("mcp"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=agents.environment(url, **settings),
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def test_stdout_holds_nothing_but_the_protocol(agents: Any, database_url: str) -> None:
    # A pause is logged, on stderr like every log line.
    with started(agents, database_url, log_format="json") as child:
        child.call("system.pause", {"mode": "drain", "reason": "loud \x1b[31m and\nlong"})
        assert child.answer()["result"]["structuredContent"]["system"]["version"] == 2
        child.call("queue.enqueue", {"unknown": 1})
        assert child.answer()["result"]["isError"] is True
        code, out, err = child.end()
    assert (code, out) == (0, b"")
    events = [json.loads(line) for line in err.splitlines()]
    assert any(event["event"].startswith("pause_") for event in events)


def test_it_ends_when_stdin_closes_though_a_claim_waits(child: Child) -> None:
    child.call("queue.claim", {"workerId": "w", "leaseSeconds": 60, "waitSeconds": 25})
    child.call("system.status", {}, number=2)
    assert child.answer()["id"] == 2
    code, out, err = child.end()
    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == [1]
    assert b"Traceback" not in err


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_it_ends_on_a_signal_though_stdin_stays_open(child: Child, sent: signal.Signals) -> None:
    child.call("queue.claim", {"workerId": "w", "leaseSeconds": 60, "waitSeconds": 25})
    child.call("system.status", {}, number=2)
    assert child.answer()["id"] == 2
    child.process.send_signal(sent)
    assert child.process.wait(timeout=PATIENCE) == 0
    _, _, err = child.end()
    assert b"Traceback" not in err


def test_half_an_emoji_is_answered(child: Child) -> None:
    # The SDK drops a line that it cannot read without an answer, and the client would wait for ever.
    child.call("queue.enqueue", {"type": "t", "payload": {"cut": "x\ud83d", "whole": "\U0001f600"}})
    assert child.answer()["result"]["structuredContent"]["payload"] == {"cut": "x?", "whole": "😀"}


def test_a_line_beyond_the_bound_is_skipped_and_the_next_one_served(child: Child) -> None:
    child.send(b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": "' + b"x" * 9_000_000 + b'"}}')
    child.send(b"not JSON at all")
    child.call("system.status", {}, number=2)
    assert child.answer()["id"] == 2


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////proc/holdfast/holdfast.db", ["/proc"]),
        ("postgresql://nobody:secret@127.0.0.1:1/none", ["HOLDFAST_DATABASE_URL"]),
    ],
    ids=["unwritable", "unreachable"],
)
def test_a_database_that_cannot_be_used_is_one_line_on_stderr(
    agents: Any, url: str, words: list[str]
) -> None:
    with started(agents, url) as child:
        code, out, err = child.end()
    assert (code, out) == (1, b"")
    (line,) = err.decode().splitlines()
    assert line.startswith("Error: ")
    assert all(word in line for word in words)
    assert "secret" not in line


@pytest.mark.anyio
async def test_the_shipped_mcp_json_starts_a_server_with_names_that_every_client_takes(
    agents: Any, sqlite_url: str
) -> None:
    servers = json.loads((Path(__file__).parents[2] / "mcp.json").read_text())["mcpServers"]
    stdio = servers["holdfast"]
    command = shutil.which(stdio["command"], path=str(Path(sys.executable).parent))
    assert command is not None, "holdfast is not installed in the environment of the tests"
    parameters = StdioServerParameters(
        command=command, args=stdio["args"], env=stdio["env"] | agents.environment(sqlite_url)
    )
    async with Client(parameters) as client:
        tools = (await client.list_tools()).tools
        assert all(tool.name.replace("_", "").isalpha() for tool in tools)
        assert isinstance((await client.call_tool("system_status", {})).content[0], types.TextContent)
