"""Server-sent events as they come over the wire (WHATWG HTML, 9.2.6)."""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["ServerEvent", "server_events"]

_LINE_END = re.compile("\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. `id` is the last one that came, its own or an earlier event's; None before the first."""

    event: str
    data: str
    id: str | None


def server_events(chunks: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The events in a stream of bytes, wherever it is cut into pieces. An event that is cut off is left out."""
    event, data, last_id = "", list[str](), None
    for line in _lines(chunks):
        if not line:
            if data:
                yield ServerEvent(event or "message", "\n".join(data), last_id)
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                event = value
            case "data":
                data.append(value)
            case "id" if "\0" not in value:
                last_id = value
            case _:
                pass  # a comment (no name), retry, or what is not known


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    rest = ""
    for chunk in chunks:
        rest += decoder.decode(chunk)
        half = "\r" if rest.endswith("\r") else ""  # maybe of a line's end
        *lines, rest = _LINE_END.split(rest.removesuffix(half))
        rest += half
        yield from lines
