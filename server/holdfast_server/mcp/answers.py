"""What a tool says back: the answer as structured content and as text, or an error as text alone.

An error has no structured content: one client refuses what does not match the output schema, and the
model then never sees the error.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from mcp import types

from holdfast_core.errors import HoldfastError
from holdfast_server.mcp.catalog import NameStyle, spelled

__all__ = ["MAX_ERROR_TEXT", "answer_result", "error_result", "error_text"]

#: A model has no use for more, however many fields were wrong.
MAX_ERROR_TEXT: Final = 4_000

#: What to do next in terms of tools; the error's own detail has said the rest.
_NEXT: Final[Mapping[str, str]] = {
    "invalid_request": "Nothing was changed. Correct this and call again.",
    "body_too_large": "Nothing was changed. Send less.",
    "not_allowed": "Leave it to somebody who may.",
    "job_not_found": "Look for the id with queue.list.",
    "job_not_owned": "Take another job with queue.claim.",
    "lease_lost": "Take another job with queue.claim.",
    "job_state_conflict": "Read the job with queue.get.",
    "version_conflict": "Read it with system.status.",
    "resume_not_drained": "Wait with system.wait.",
    "pause_not_confirmed": "Read it with system.status.",
    "internal_error": "It may have been done or not: read system.status or queue.get before a repeat.",
}

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def answer_result(text: str) -> types.CallToolResult:
    """The answer of a service, of which this is the JSON, whole in both forms."""
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], structured_content=json.loads(text)
    )


def error_result(error: HoldfastError, style: NameStyle) -> types.CallToolResult:
    """A tool error: `[code] detail`, each refused field, and what to do next."""
    parts = [error.detail]
    parts += [
        f"{item.field}: {item.message}."
        for item in error.errors
        if item.field not in error.detail or item.message not in error.detail
    ]
    told = _cut(_shown(" ".join(parts)))
    if not told.endswith((".", "!", "?")):
        told += "."
    told = f"[{error.code}] {told}"
    if error.code in _NEXT:
        told += " " + spelled(_NEXT[error.code], style)
    if error.retry_after is not None:
        told += f" Wait {error.retry_after} s first."
    return types.CallToolResult(content=[types.TextContent(type="text", text=told)], is_error=True)


def error_text(error: HoldfastError) -> str:
    """The same as an error of the protocol tells it, which is all that a resource or prompt has."""
    return _cut(_shown(f"[{error.code}] {error.detail}"))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_ERROR_TEXT else text[:MAX_ERROR_TEXT] + "…"


def _shown(text: str) -> str:
    """Names from outside may be in it: nothing that moves a terminal's cursor goes out."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
