"""What an agent's CLI says on stdin before a tool call. Claude Code and Codex say it in the same shape."""

import json
from dataclasses import dataclass
from typing import Any, Final, cast

from holdfast_worker.terminal.text import escaped

__all__ = ["EVENT", "MAX_LABEL", "ToolCall", "read_call"]

#: The one event that there is an answer to.
EVENT: Final = "PreToolUse"
#: Characters of a checkpoint (CONTRACT section 4).
MAX_LABEL: Final = 200


@dataclass(frozen=True)
class ToolCall:
    """A tool that is about to be called."""

    tool: str

    @property
    def checkpoint(self) -> str:
        """The name of the checkpoint before it."""
        return f"tool {escaped(self.tool)}"[:MAX_LABEL].rstrip()


def read_call(said: bytes) -> ToolCall | None:
    """The call; None where nothing legible, or another event, was said: then there is nothing to answer."""
    try:
        event = json.loads(said)
    except (ValueError, RecursionError):
        return None
    fields = cast("dict[str, Any]", event) if isinstance(event, dict) else {}
    if fields.get("hook_event_name") != EVENT:
        return None
    tool = fields.get("tool_name")
    return ToolCall(tool if isinstance(tool, str) and tool.strip() else "call")
