"""`holdfast mcp-config`: what it prints can be read, and what is started from it lists tools."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp import Client, StdioServerParameters

from holdfast_core import __version__
from holdfast_server.commands.mcp_config import _CLIENTS
from holdfast_server.mcp.clients import CLIENTS

PATIENCE = 60
TOKEN = "HOLDFAST_TOKEN"


def printed(client: str, *options: str) -> tuple[str, str]:
    """stdout and stderr of the command."""
    program = (
        "import sys; from holdfast_server.commands.mcp_config import mcp_config;"
        " mcp_config(sys.argv[1:], prog_name='holdfast mcp-config')"
    )
    command = [sys.executable, "-c", program, "--client", client, *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def read(client: str, text: str) -> dict[str, Any]:
    return tomllib.loads(text) if client == "codex" else json.loads(text)


def server_in(client: str, text: str, name: str = "holdfast") -> dict[str, Any]:
    """How the server is started or reached: command, args, env, or url and what goes with it."""
    document = read(client, text)
    match client:
        case "claude-code" | "cursor":
            server: dict[str, Any] = document["mcpServers"][name]
        case "vscode":
            server = document["servers"][name]
        case "codex":
            server = document["mcp_servers"][name]
        case _:
            (package,) = document["packages"]
            environment = {v["name"]: v["default"] for v in package["environmentVariables"] if "default" in v}
            arguments = [argument["value"] for argument in package["packageArguments"]]
            server = {"command": package["identifier"], "args": arguments, "env": environment}
    return server


def test_the_command_knows_the_clients_that_there_are() -> None:
    assert tuple(CLIENTS) == _CLIENTS


@pytest.mark.anyio
@pytest.mark.parametrize("client", _CLIENTS)
async def test_what_is_started_as_printed_lists_tools_in_names_that_every_client_takes(
    agents: Any, sqlite_url: str, client: str
) -> None:
    text, told = printed(client)
    server = server_in(client, text)
    command = shutil.which(server["command"], path=str(Path(sys.executable).parent))
    assert command is not None, "holdfast is not installed in the environment of the tests"
    parameters = StdioServerParameters(
        command=command, args=server["args"], env=server["env"] | agents.environment(sqlite_url)
    )
    async with Client(parameters) as connected:
        names = [tool.name for tool in (await connected.list_tools()).tools]
    assert "queue_claim" in names
    assert all(name.replace("_", "").isalpha() for name in names)
    where = {"registry": "server.json", "codex": "config.toml", "claude-code": ".mcp.json"}
    assert where.get(client, f".{client}/mcp.json") in told


@pytest.mark.anyio
@pytest.mark.parametrize("client", [name for name in _CLIENTS if name != "registry"])
async def test_the_address_that_is_printed_lists_tools(agents: Any, sqlite_url: str, client: str) -> None:
    async with agents.http_server(sqlite_url) as url:
        text, _ = printed(client, "--url", url.removesuffix("/mcp"), "--name", "my-queue_2")
        server = server_in(client, text, "my-queue_2")
        assert "command" not in server
        async with Client(server["url"]) as connected:
            assert "queue_claim" in [tool.name for tool in (await connected.list_tools()).tools]


def test_the_token_is_taken_from_where_each_client_keeps_it_and_stands_in_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKEN, "hf_secret")
    options = ("--url", "https://queue.example.org/base/")
    texts = {client: printed(client, *options)[0] for client in _CLIENTS}
    assert not [client for client, text in texts.items() if "hf_secret" in text]
    address = "https://queue.example.org/base/mcp?names=underscore"
    server = {client: server_in(client, texts[client]) for client in _CLIENTS if client != "registry"}
    assert {one["url"] for one in server.values()} == {address}
    assert server["claude-code"]["headers"] == {"Authorization": f"Bearer ${{{TOKEN}}}"}
    assert server["claude-code"]["type"] == server["vscode"]["type"] == "http"
    assert server["cursor"]["headers"] == {"Authorization": f"Bearer ${{env:{TOKEN}}}"}
    assert server["codex"]["bearer_token_env_var"] == TOKEN
    (asked,) = read("vscode", texts["vscode"])["inputs"]
    assert asked["password"] is True
    assert server["vscode"]["headers"] == {"Authorization": f"Bearer ${{input:{asked['id']}}}"}
    (remote,) = read("registry", texts["registry"])["remotes"]
    (header,) = remote["headers"]
    assert (remote["type"], remote["url"], header["isSecret"]) == ("streamable-http", address, True)

    for client in _CLIENTS:
        bare = printed(client, *options, "--no-token")[0]
        assert read(client, bare)
        assert not [word for word in ("oken", "Bearer", "inputs") if word in bare], client


def test_the_shipped_mcp_json_is_what_is_printed() -> None:
    shipped = (Path(__file__).parents[2] / "mcp.json").read_text()
    assert printed("claude-code")[0] == shipped


#: What the registry's schema of 2025-12-11 asks of what we write; the whole schema is not at hand.
REGISTRY = {
    "type": "object",
    "required": ["$schema", "name", "description", "version"],
    "properties": {
        "$schema": {"const": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"},
        "name": {"pattern": r"^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$", "maxLength": 200},
        "description": {"minLength": 1, "maxLength": 100},
        "title": {"minLength": 1, "maxLength": 100},
        "version": {"type": "string", "maxLength": 255},
        "packages": {
            "items": {
                "required": ["registryType", "identifier", "transport"],
                "properties": {
                    "transport": {"required": ["type"]},
                    "runtimeArguments": {"items": {"required": ["type", "name", "value"]}},
                    "packageArguments": {"items": {"required": ["type", "value"]}},
                    "environmentVariables": {"items": {"required": ["name"]}},
                },
            }
        },
        "remotes": {"items": {"required": ["type", "url"]}},
    },
}


@pytest.mark.parametrize("options", [(), ("--url", "https://queue.example.org")], ids=["package", "remote"])
@pytest.mark.parametrize("name", ["holdfast", "io.github.someone/holdfast"])
def test_the_registrys_document_is_of_its_shape_and_of_this_version(
    name: str, options: tuple[str, ...]
) -> None:
    document = read("registry", printed("registry", "--name", name, *options)[0])
    Draft202012Validator(REGISTRY).validate(document)
    assert document["version"] == __version__
    assert document["name"].endswith("/holdfast")
    for package in document.get("packages", ()):
        assert (package["registryType"], package["identifier"]) == ("pypi", "holdfast")
        assert (package["version"], package["transport"]) == (__version__, {"type": "stdio"})
        (extra,) = package["runtimeArguments"]
        assert extra["value"] == f"holdfast[server]=={__version__}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--client", "emacs"], "emacs"),
        ([], "--client"),
        (["--client", "codex", "--name", 'a"]\n[x'], "--name"),
        (["--client", "cursor", "--name", "a/b"], "--name"),
        (["--client", "cursor", "--name", ""], "--name"),
        (["--client", "cursor", "--no-token"], "--no-token"),
        (["--client", "codex", "--url", "queue.example.org"], "not an address"),
        (["--client", "codex", "--url", 'http://x/"y\n'], "not an address"),
        (["--client", "codex", "--url", "http://me:secret@x"], "HOLDFAST_TOKEN"),
    ],
)
def test_what_it_cannot_print_is_said(options: list[str], words: str) -> None:
    from click.testing import CliRunner

    from holdfast_server.commands.mcp_config import mcp_config

    ended = CliRunner().invoke(mcp_config, options)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert words in ended.stderr
    assert "secret" not in ended.stderr


def test_it_needs_nothing_of_the_servers_libraries(tmp_path: Path) -> None:
    absent = ["alembic", "asyncpg", "fastapi", "mcp", "sqlalchemy", "starlette", "uvicorn"]
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n"
    )
    program = (
        "from holdfast_server.commands.mcp_config import mcp_config;"
        " mcp_config(['--client', 'codex', '--url', 'http://127.0.0.1:8790'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)["mcp_servers"]["holdfast"]["url"].startswith(
        "http://127.0.0.1:8790/mcp"
    )
