"""Server-sent events as they come over the wire (WHATWG HTML, 9.2.6)."""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from holdfast_core.schemas import Answer
from holdfast_worker.failures import UnexpectedAnswer

__all__ = ["MAX_EVENT", "ServerEvent", "server_events"]

#: The longest event that is read, in characters. The server's longest hold a job, or one line of a log.
MAX_EVENT: Final = 8 * 1_048_576

_LINE_END: Final = re.compile("\r\n|\n|\r")

_A = TypeVar("_A", bound=Answer)


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. `id` is the last one that came, its own or an earlier event's; None before the first."""

    event: str
    data: str
    id: str | None

    def read(self, model: type[_A]) -> _A:
        """Its data. Raises UnexpectedAnswer where it is something else."""
        try:
            return model.model_validate_json(self.data)
        except ValidationError as error:
            raise UnexpectedAnswer(
                f"An event `{self.event[:64]}` came that holds no {model.__name__}:"
                " from no Holdfast server, or one of another age."
            ) from error


def server_events(chunks: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The events in a stream of bytes, wherever it is cut into pieces. An event that is cut off is left out.

    Raises UnexpectedAnswer for one that is longer than MAX_EVENT.
    """
    event, data, length, last_id = "", list[str](), 0, None
    for line in _lines(chunks):
        if not line:
            if data:
                yield ServerEvent(event or "message", "\n".join(data), last_id)
            event, data, length = "", [], 0
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                event = value
            case "data":
                length += len(value)
                _check(length)
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
        _check(len(rest))


def _check(length: int) -> None:
    if length > MAX_EVENT:
        raise UnexpectedAnswer(
            f"An event came that is longer than {MAX_EVENT:,} characters: from no Holdfast server."
        )
