"""The yardstick of MCP: a tool that does nothing, made the way the SDK's documentation says, served as Holdfast is.

It takes what `queue.claim` takes and answers with a small structured answer, as JSON and without sessions: what the SDK
recommends where speed matters.
"""

import socket

import uvicorn
from mcp.server import MCPServer
from pydantic import BaseModel

server = MCPServer("no-op", log_level="WARNING")


class Answer(BaseModel):
    """Says that there is nothing."""

    ok: bool


@server.tool("queue.claim")
async def claim(
    workerId: str,  # noqa: N803
    leaseSeconds: int,  # noqa: N803
    allowedTypes: list[str] | None = None,  # noqa: N803
    workerCapabilities: list[str] | None = None,  # noqa: N803
    waitSeconds: float = 0,  # noqa: N803
    observedVersion: int | None = None,  # noqa: N803
    requestId: str | None = None,  # noqa: N803
) -> Answer:
    """Nothing, as fast as the SDK does it."""
    return Answer(ok=True)


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"The no-op is ready at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    app = server.streamable_http_app(stateless_http=True, json_response=True)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listening])
