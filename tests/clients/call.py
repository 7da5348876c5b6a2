"""fastmcp's client as a process that is told what to do: one request a line on stdin, its answer on stdout.

Takes one argument, JSON: {"url"} or {"command", "args", "env"}, and {"mode": "auto" | "legacy"} where it is not to
have its own way.
"""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from mcp import MCPError
from mcp.types import CallToolResult


async def main(url: str = "", mode: str = "auto", **command: Any) -> None:
    transport = StreamableHttpTransport(url) if url else StdioTransport(**command, keep_alive=False)
    async with Client(transport, mode=mode) as client:
        verbs: dict[str, Callable[..., Awaitable[Any]]] = {
            "tools/list": client.list_tools_mcp,
            "tools/call": lambda **params: call_tool(client, **params),
            "resources/list": client.list_resources_mcp,
            "resources/read": client.read_resource_mcp,
            "prompts/list": client.list_prompts_mcp,
            "prompts/get": client.get_prompt_mcp,
        }
        say({"protocolVersion": client.protocol_version, "serverInfo": dump(client.server_info)})
        async for line in anyio.wrap_file(sys.stdin):
            request = json.loads(line)
            try:
                say({"result": dump(await verbs[request["method"]](**request["params"]))})
            except MCPError as error:
                say({"error": {"code": error.error.code, "message": error.error.message}})


async def call_tool(client: Client[Any], name: str, arguments: dict[str, Any]) -> CallToolResult:
    """The way that fastmcp's users take, which reads an answer by the tool's output schema as well."""
    result = await client.call_tool(name, arguments, raise_on_error=False)
    assert result.is_error or result.data is not None
    return CallToolResult(
        content=result.content, structured_content=result.structured_content, is_error=result.is_error
    )


def dump(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def say(message: Any) -> None:
    print(json.dumps(message), flush=True)


anyio.run(lambda: main(**json.loads(sys.argv[1])))
