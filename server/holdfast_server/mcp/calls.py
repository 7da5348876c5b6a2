"""A tool call, by whichever way it came: who asks is admitted, the arguments are read, the service is called, and what
went wrong is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from mcp import MCPError, types
from starlette.types import Receive, Scope

from holdfast_core.callers import Caller
from holdfast_core.errors import HoldfastError, InternalError, NotAllowed
from holdfast_core.policy import TOOLS, Permission, admit
from holdfast_core.schemas import Answer
from holdfast_core.services import Services
from holdfast_server.mcp.answers import error_result, error_text
from holdfast_server.mcp.arguments import read_arguments
from holdfast_server.mcp.asking import Asking, caller_of
from holdfast_server.mcp.catalog import NameStyle, spelled
from holdfast_server.mcp.connected import while_connected
from holdfast_server.mcp.tool import Call, Progress, Tool

__all__ = ["Asked", "Calls"]

_log: Final[Any] = structlog.get_logger(__name__)


@dataclass(slots=True)
class Asked:
    """How a call came. `scope` and `receive` are those of its HTTP request, None on stdio; `protocol` is the version
    that the client speaks, `style` how it wants tools named."""

    scope: Scope | None
    receive: Receive | None
    protocol: str
    style: NameStyle
    progress: Progress


class Calls:
    """The calls of one server's tools."""

    def __init__(self, services: Callable[[], Services], asking: Asking) -> None:
        self._services = services
        self._asking = asking

    async def result(
        self, tool: Tool[Any], arguments: Mapping[str, Any], asked: Asked
    ) -> str | types.CallToolResult | types.ErrorData:
        """The answer's JSON; a tool error; or an error of the protocol, where the status of HTTP is to say more."""
        style = asked.style
        try:
            if asked.scope is not None:
                answer = await self._answer(caller_of(asked.scope), tool, arguments, asked)
            else:
                async with self._asking.while_good() as caller:
                    answer = await self._answer(caller, tool, arguments, asked)
            return answer.model_dump_json()
        except NotAllowed as error:
            told = self._asking.explained(error)
            if self._asking.ask_for_more(asked.scope, asked.protocol, error):
                return types.ErrorData(code=types.INVALID_REQUEST, message=error_text(told))
            return error_result(told, style)
        except HoldfastError as error:
            return error_result(error, style)
        except MCPError as error:
            return error.error
        except Exception:
            # Not the cancellation: that passes through, so that the service can give a job back.
            _log.exception("mcp_tool_crashed", tool=tool.name)
            return error_result(InternalError("The server failed on this call; its log says why."), style)

    async def _answer(
        self, caller: Caller, tool: Tool[Any], arguments: Mapping[str, Any], asked: Asked
    ) -> Answer:
        permission = TOOLS[tool.name]
        if permission is not Permission.TOGGLE:  # whose refusal the service puts into the audit log
            admit(caller, permission, f"call {spelled(tool.name, asked.style)}")
        request = read_arguments(tool.arguments, arguments)
        call = Call(self._services(), caller, asked.progress)
        if asked.receive is not None and tool.waits(arguments):
            return await while_connected(asked.receive, lambda: tool.run(call, request))
        return await tool.run(call, request)
