"""All tools in their fixed order, and the two spellings of their names.

Dots are canonical. Some clients refuse the whole server for a dot in a name, others drop one of two
equal tools; so one spelling is listed, and both are accepted in every call.
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Final, Literal

from mcp import types

from holdfast_core.policy import may_call
from holdfast_core.states import Role
from holdfast_server.mcp.jobs import JOB_TOOLS
from holdfast_server.mcp.schema import input_schema, output_schema
from holdfast_server.mcp.system import SYSTEM_TOOLS
from holdfast_server.mcp.tool import Tool
from holdfast_server.mcp.work import WORK_TOOLS

__all__ = ["TOOLS", "NameStyle", "find_tool", "listing", "spelled", "tool_input_schema"]

NameStyle = Literal["dot", "underscore"]

#: New tools go to the end of their group: clients show, and models remember, the order.
TOOLS: Final[tuple[Tool[Any], ...]] = (*JOB_TOOLS, *WORK_TOOLS, *SYSTEM_TOOLS)


#: Each spelling for each set of roles, and for all.
MAX_LISTINGS: Final = 2 * ((1 << len(Role)) + 1)


def _underscored(name: str) -> str:
    return name.replace(".", "_")


_BY_NAME: Final[Mapping[str, Tool[Any]]] = {
    spelling: tool for tool in TOOLS for spelling in (tool.name, _underscored(tool.name))
}
# Longest first, so that queue.cancel_ack is not taken for queue.cancel.
_IN_TEXT: Final = re.compile("|".join(re.escape(t.name) for t in sorted(TOOLS, key=lambda t: -len(t.name))))


def find_tool(name: str) -> Tool[Any] | None:
    """The tool of this name, in either spelling."""
    return _BY_NAME.get(name)


def spelled(text: str, style: NameStyle) -> str:
    """`text` with the names of tools in it as they are listed."""
    return text if style == "dot" else _IN_TEXT.sub(lambda found: _underscored(found[0]), text)


@lru_cache(maxsize=MAX_LISTINGS)
def listing(style: NameStyle, roles: frozenset[Role] | None = None) -> tuple[types.Tool, ...]:
    """The tools as clients see them: those that one of the roles admits; None: all."""
    if roles is None:
        return tuple(_listed(tool, style) for tool in TOOLS)
    return tuple(listed for listed in listing(style) if may_call(roles, listed.name))


def _listed(tool: Tool[Any], style: NameStyle) -> types.Tool:
    words = {field: spelled(text, style) for field, text in tool.words.items()}
    return types.Tool(
        name=spelled(tool.name, style),
        title=tool.title,
        description=spelled(tool.description, style),
        input_schema=input_schema(tool.arguments, words),
        output_schema=output_schema(tool.answer),
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.effect.read_only,
            destructive_hint=tool.effect.destructive,
            idempotent_hint=tool.effect.idempotent,
            open_world_hint=False,
        ),
    )


@cache
def _input_schemas() -> Mapping[str, dict[str, Any]]:
    return {listed.name: listed.input_schema for style in ("dot", "underscore") for listed in listing(style)}


def tool_input_schema(name: str) -> dict[str, Any] | None:
    """A tool's input schema, without running the listing for it (the SDK asks at each modern call)."""
    return _input_schemas().get(name)
