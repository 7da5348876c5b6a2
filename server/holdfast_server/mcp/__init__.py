"""MCP: the queue and its pause as tools, resources and prompts, over stdio and streamable HTTP.

    tool.py          what a tool is; its arguments are read by arguments.py, its answer told by answers.py
    jobs.py          tools of people and producers: enqueue, get, list, cancel, retry, requeue
    work.py          tools of workers: claim, heartbeat, outcomes, presence
    system.py        tools of operators: status, pause, resume, wait, history
    catalog.py       all of them in their fixed order, and both spellings of their names (spelling.py: which)
    asking.py        who asks, and what that admits; speaker.py: for whom a server on stdio speaks
    schema.py        JSON Schemas from the models; words.py has the words in them
    resources.py     the snapshot, a job, the playbook (playbook.md); prompts.py the conversations
    subscriptions.py who is told of a change; versions.py what there is to tell
    server.py        the MCP server that offers all this
    calls.py         runs a tool call, by whichever way it came
    http.py stdio.py the two transports; plain.py answers the plain calls of the first without the SDK's detours;
                     connected.py ends a long call whose HTTP client has gone
    later.py         the first of them, made when it is asked for
    forward.py       `holdfast mcp --url`: what a server elsewhere offers; upstream.py speaks to it, relay.py
                     keeps subscriptions to it, address.py and settings.py say where and how
    clients.py       configuration for the agents' programs

A tool has no rule of its own: it reads its arguments, calls the service that REST calls, and tells
what came out (CONTRACT section 5).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from holdfast_server.mcp.http import McpEndpoint, create_mcp_endpoint
    from holdfast_server.mcp.server import build_mcp_server
    from holdfast_server.mcp.stdio import serve_stdio

__all__ = ["McpEndpoint", "build_mcp_server", "create_mcp_endpoint", "serve_stdio"]

_HOMES: Final = {
    "McpEndpoint": "http",
    "build_mcp_server": "server",
    "create_mcp_endpoint": "http",
    "serve_stdio": "stdio",
}


def __getattr__(name: str) -> Any:
    # Found when they are needed: the forwarder runs where the server's libraries are not installed.
    if name not in _HOMES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
