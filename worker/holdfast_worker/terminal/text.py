"""Text from outside, made fit for a terminal, a pipe and a log line."""

import re
from datetime import UTC, datetime
from typing import Final

__all__ = ["ago", "escaped", "json_for_terminal", "moment"]

#: C0 and C1 controls and DEL; marks that reorder what stands around them; separators that break a line;
#: halves of surrogate pairs, which cannot be written at all.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def escaped(text: object) -> str:
    """`text` with control characters shown as escapes, so that it can neither move a cursor nor break a line."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def json_for_terminal(body: str) -> str:
    """A JSON text that means the same, and holds nothing that a terminal would obey."""
    # JSON escapes C0 by itself, and outside of strings holds of it only white space.
    unsafe = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", ""))
    return unsafe.sub(lambda found: f"\\u{ord(found[0]):04x}", body)


def moment(time: datetime | None) -> str:
    """A time in UTC, to the second."""
    return "" if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ago(seconds: float) -> str:
    """A span of time in one unit, as people say it."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
