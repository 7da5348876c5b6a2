"""`holdfast serve` and `holdfast migrate` as processes: what they print, and how they end."""

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from holdfast_core.db.migrations import head
from holdfast_server.commands.web import GRACEFUL_SECONDS

PATIENCE = 30
READY = "Holdfast is ready at http://127.0.0.1:"
PAUSE = "/api/system/worker-pause"


@contextmanager
def serving(
    agents: Any, url: str, *options: str, **settings: str
) -> Generator[tuple["subprocess.Popen[bytes]", str]]:
    """A running `holdfast serve`, and the address that it has told."""
    with subprocess.Popen(
        agents.command("serve", "--port", "0", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=agents.environment(url, **settings),
    ) as process:
        try:
            assert process.stdout is not None
            line = line_from(process.stdout.fileno())
            assert line.startswith(READY), line
            yield process, line.removeprefix("Holdfast is ready at ").strip()
        finally:
            process.kill()


def line_from(descriptor: int) -> str:
    """One line, in time."""
    read = b""
    until = time.monotonic() + PATIENCE
    while not read.endswith(b"\n"):
        assert select.select([descriptor], [], [], until - time.monotonic())[0], "no line came in time"
        part = os.read(descriptor, 1)
        if not part:
            break
        read += part
    return read.decode()


def run(agents: Any, url: str, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        agents.command(*arguments),
        env=agents.environment(url, **settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_serve_tells_its_address_in_one_line_and_ends_well_on_a_signal(
    agents: Any, database_url: str, sent: signal.Signals
) -> None:
    with serving(agents, database_url) as (process, address):
        answer = httpx2.get(address + PAUSE)
        assert answer.json()["system"]["version"] == 1
        assert "server" not in answer.headers
        process.send_signal(sent)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, b"")
    assert b"Traceback" not in err


def test_serve_ends_soon_though_clients_hold_streams_and_long_calls_open(
    agents: Any, sqlite_url: str
) -> None:
    headers = {"accept": "application/json, text/event-stream"}
    hello = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    }
    with serving(agents, sqlite_url) as (process, address), httpx2.Client(headers=headers) as http:
        begun = http.post(address + "/mcp", json=message("initialize", hello, 1))
        http.headers["mcp-session-id"] = begun.headers["mcp-session-id"]
        http.post(address + "/mcp", json=message("notifications/initialized", {}))
        claim = {"name": "queue.claim", "arguments": {"workerId": "w", "leaseSeconds": 60, "waitSeconds": 25}}
        with (
            http.stream("GET", address + "/mcp"),
            http.stream("POST", address + "/mcp", json=message("tools/call", claim, 2)),
        ):
            begun_at = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE) == 0
            assert time.monotonic() - begun_at < 2 * GRACEFUL_SECONDS + 3
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_long_calls_that_the_end_cuts_off_are_told_to_repeat(agents: Any, sqlite_url: str) -> None:
    prefix = "io.modelcontextprotocol"
    envelope = {f"{prefix}/protocolVersion": "2026-07-28", f"{prefix}/clientCapabilities": {}}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "queue.claim",
    }
    with serving(agents, sqlite_url) as (process, address), ThreadPoolExecutor() as threads:

        def claiming(worker: str) -> httpx2.Response:
            arguments = {"workerId": worker, "leaseSeconds": 60, "waitSeconds": 25}
            call = {"name": "queue.claim", "arguments": arguments, "_meta": envelope}
            body = message("tools/call", call, 1)
            return httpx2.post(address + "/mcp", json=body, headers=headers, timeout=PATIENCE)

        answers = [threads.submit(claiming, f"w-{number}") for number in range(3)]
        until = time.monotonic() + PATIENCE
        while httpx2.get(address + PAUSE).json()["workers"]["connected"] < len(answers):
            assert time.monotonic() < until, "the claims have not come in"
        process.send_signal(signal.SIGTERM)
        for answer in answers:
            cut = answer.result(timeout=PATIENCE)
            assert cut.status_code == 503
            assert cut.headers["retry-after"] == "1"
            assert cut.json()["code"] == "unavailable"
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert b"Traceback" not in err
    assert b"error" not in err


def message(method: str, params: dict[str, Any], number: int | None = None) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "method": method, "params": params}
    return body if number is None else body | {"id": number}


def test_serve_lives_on_when_its_stdout_is_closed(agents: Any, sqlite_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reading, writing = os.pipe()
    os.close(reading)  # whatever is written to it raises
    with subprocess.Popen(
        agents.command("serve", "--port", str(port)),
        stdout=writing,
        stderr=subprocess.PIPE,
        env=agents.environment(sqlite_url),
    ) as process:
        os.close(writing)
        try:
            transport = httpx2.HTTPTransport(retries=0)
            with httpx2.Client(transport=transport) as http:
                until = time.monotonic() + PATIENCE
                while True:
                    try:
                        answer = http.get(f"http://127.0.0.1:{port}{PAUSE}", timeout=PATIENCE)
                        break
                    except httpx2.ConnectError:
                        assert time.monotonic() < until, "it never listened"
            assert answer.status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=PATIENCE) == 0
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_serve_on_a_taken_port_is_one_line(agents: Any, tmp_path: Path) -> None:
    untouched = tmp_path / "never-made.db"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run(agents, f"sqlite:///{untouched}", "serve", "--port", port)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"Error: Cannot listen on 127.0.0.1 port {port}: ")
    assert "--port" in line
    assert not untouched.exists()


@pytest.mark.parametrize("command", ["serve", "migrate"])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////proc/holdfast/holdfast.db", "/proc"),
        ("postgresql://nobody:secret@127.0.0.1:1/none", "HOLDFAST_DATABASE_URL"),
    ],
    ids=["unwritable", "unreachable"],
)
def test_a_database_that_cannot_be_used_is_one_line(agents: Any, command: str, url: str, words: str) -> None:
    options = ("--port", "0") if command == "serve" else ()
    ended = run(agents, url, command, *options)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: ")
    assert words in line
    assert "secret" not in line


@pytest.mark.parametrize("command", ["serve", "mcp", "migrate"])
@pytest.mark.parametrize(
    "settings", [{"port": "many"}, {"tool_name_style": "dashes"}, {"host": "0.0.0.0"}], ids=str
)
def test_a_wrong_setting_is_one_line_that_names_it(
    agents: Any, command: str, settings: dict[str, str], sqlite_url: str
) -> None:
    ended = run(agents, sqlite_url, command, **settings)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert f"HOLDFAST_{next(iter(settings)).upper()}" in line


def test_options_win_over_the_environment(agents: Any, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.db"
    ended = run(agents, "nonsense", "migrate", "--database-url", f"sqlite:///{wanted}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{head()}\n", "")
    assert wanted.exists()


def test_migrate_tells_the_revision_also_as_json(agents: Any, database_url: str) -> None:
    ended = run(agents, database_url, "migrate", "--json")
    assert ended.returncode == 0
    assert json.loads(ended.stdout) == {"revision": head()}
