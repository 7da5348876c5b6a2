"""Configuration for the programs that agents run in, all from one source: one server, in each client's words.

Without an address the client starts `holdfast mcp`, which opens the database itself. With one it speaks
streamable HTTP to that server. A token is never written down: the file says where the client finds it.
Tools are listed with underscores, which every client takes (some refuse a whole server for a dot).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from holdfast_core import __version__

__all__ = ["CLIENTS", "Client", "ServerEntry"]

_TOKEN: Final = "HOLDFAST_TOKEN"
_DESCRIPTION: Final = "A job queue for AI-agent workers with a pause that can be trusted."
_REGISTRY_SCHEMA: Final = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """The server that a client is to be told of. `url` is the address of its MCP endpoint, or None for stdio."""

    name: str
    url: str | None = None
    #: Whether the server asks who is there.
    token: bool = True

    @property
    def stdio(self) -> dict[str, Any]:
        """How to start it."""
        return {"command": "holdfast", "args": ["mcp"], "env": {"HOLDFAST_TOOL_NAME_STYLE": "underscore"}}

    def remote(self, bearer: str) -> dict[str, Any]:
        """How to reach it, with the token where the client puts it in for `bearer`."""
        headers = {"headers": {"Authorization": f"Bearer {bearer}"}} if self.token else {}
        return {"type": "http", "url": self.url, **headers}


@dataclass(frozen=True, slots=True)
class Client:
    """One client: where it looks, and how it wants to be told."""

    path: str
    render: Callable[[ServerEntry], str]
    hint: str = ""


def _claude_code(entry: ServerEntry) -> str:
    server = {"type": "stdio", **entry.stdio} if entry.url is None else entry.remote(f"${{{_TOKEN}}}")
    return _json({"mcpServers": {entry.name: server}})


def _vscode(entry: ServerEntry) -> str:
    if entry.url is None:
        return _json({"servers": {entry.name: {"type": "stdio", **entry.stdio}}})
    asked = f"{entry.name}-token"
    question = {
        "type": "promptString",
        "id": asked,
        "description": f"Token for {entry.name}",
        "password": True,
    }
    inputs = {"inputs": [question]} if entry.token else {}
    return _json({**inputs, "servers": {entry.name: entry.remote(f"${{input:{asked}}}")}})


def _cursor(entry: ServerEntry) -> str:
    if entry.url is None:
        return _json({"mcpServers": {entry.name: entry.stdio}})
    remote = entry.remote(f"${{env:{_TOKEN}}}")
    del remote["type"]  # it knows by the address
    return _json({"mcpServers": {entry.name: remote}})


def _codex(entry: ServerEntry) -> str:
    if entry.url is None:
        lines = _toml_lines({name: value for name, value in entry.stdio.items() if name != "env"})
        lines += ["", f"[mcp_servers.{entry.name}.env]", *_toml_lines(entry.stdio["env"])]
    else:
        lines = _toml_lines({"url": entry.url} | ({"bearer_token_env_var": _TOKEN} if entry.token else {}))
    return "\n".join([f"[mcp_servers.{entry.name}]", *lines, ""])


def _registry(entry: ServerEntry) -> str:
    server: dict[str, Any] = {
        "$schema": _REGISTRY_SCHEMA,
        "name": entry.name if "/" in entry.name else f"io.github.{entry.name}/{entry.name}",
        "title": "Holdfast",
        "description": _DESCRIPTION,
        "version": __version__,
    }
    if entry.url is None:
        server["packages"] = [_package()]
    else:
        token = {
            "name": "Authorization",
            "description": "Who is asking",
            "value": "Bearer {token}",
            "isRequired": True,
            "isSecret": True,
            "variables": {"token": {"description": "An API token", "isRequired": True, "isSecret": True}},
        }
        headers = {"headers": [token]} if entry.token else {}
        server["remotes"] = [{"type": "streamable-http", "url": entry.url, **headers}]
    return _json(server)


def _package() -> dict[str, Any]:
    """`uvx --with 'holdfast[server]==VERSION' holdfast@VERSION mcp`: alone it would come without its libraries."""
    variables: dict[str, dict[str, Any]] = {
        "HOLDFAST_TOOL_NAME_STYLE": {
            "description": "How tools are named: dot (queue.claim) or underscore (queue_claim).",
            "default": "underscore",
            "choices": ["dot", "underscore"],
        },
        "HOLDFAST_DATABASE_URL": {
            "description": "sqlite:///PATH or postgresql://…; unset: SQLite in your data folder.",
            "isSecret": True,
        },
        "HOLDFAST_MCP_ROLE": {
            "description": "Narrows what is offered; unset: everything.",
            "choices": ["viewer", "producer", "worker", "operator", "admin"],
        },
    }
    return {
        "registryType": "pypi",
        "identifier": "holdfast",
        "version": __version__,
        "runtimeHint": "uvx",
        "runtimeArguments": [
            {"type": "named", "name": "--with", "value": f"holdfast[server]=={__version__}"},
        ],
        "packageArguments": [{"type": "positional", "value": "mcp"}],
        "transport": {"type": "stdio"},
        "environmentVariables": [{"name": name, **rest} for name, rest in variables.items()],
    }


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _toml_lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in table.items()]


def _toml(value: Any) -> str:
    """A string or a list of strings, of printable characters: TOML writes them as JSON does."""
    return json.dumps(value, ensure_ascii=False)


_IN_REPOSITORY: Final = "at the root of the repository that the agent works in"

CLIENTS: Final[Mapping[str, Client]] = {
    "claude-code": Client(f".mcp.json {_IN_REPOSITORY}", _claude_code),
    "vscode": Client(f".vscode/mcp.json {_IN_REPOSITORY}", _vscode),
    "cursor": Client(f".cursor/mcp.json {_IN_REPOSITORY}", _cursor),
    "codex": Client("~/.codex/config.toml, below what it holds already", _codex),
    "registry": Client(
        "server.json, for the MCP registry",
        _registry,
        "Publish it under a namespace of your own: --name io.github.YOU/holdfast.",
    ),
}
