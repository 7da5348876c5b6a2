"""MCP: the queue and its pause as tools, over stdio and streamable HTTP.

    tool.py          what a tool is; its arguments are read by arguments.py, its answer told by answers.py
    jobs.py          tools of people and producers: enqueue, get, list, cancel, retry, requeue
    work.py          tools of workers: claim, heartbeat, outcomes, presence
    system.py        tools of operators: status, pause, resume, wait, history
    catalog.py       all of them in their fixed order, and both spellings of their names
    schema.py        JSON Schemas from the models; words.py has the words in them
    server.py        the MCP server that lists and calls them
    http.py stdio.py the two transports; connected.py ends a long call whose HTTP client has gone

A tool has no rule of its own: it reads its arguments, calls the service that REST calls, and tells
what came out (CONTRACT section 5).
"""

from holdfast_server.mcp.http import McpEndpoint, create_mcp_endpoint
from holdfast_server.mcp.server import build_mcp_server
from holdfast_server.mcp.stdio import serve_stdio

__all__ = ["McpEndpoint", "build_mcp_server", "create_mcp_endpoint", "serve_stdio"]
