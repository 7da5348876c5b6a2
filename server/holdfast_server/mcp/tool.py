"""What a tool is: its name, its words, what it takes and answers, and the service call behind it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from holdfast_core.callers import Caller
from holdfast_core.schemas import Answer, Request
from holdfast_core.services import Services

__all__ = ["ADDS", "CHANGES", "DESTROYS", "READS", "Call", "Effect", "Progress", "Tool"]

_A = TypeVar("_A", bound=Request)


class Progress(Protocol):
    """Tells the client how far a long call has come. Does nothing where the client did not ask for it."""

    async def __call__(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """`progress` grows with each report, towards `total`; `message` is for people."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call: the services, who is asking, and the way back for progress."""

    services: Services
    caller: Caller
    progress: Progress


@dataclass(frozen=True, slots=True)
class Effect:
    """What a call does to the world, as the MCP annotations tell it."""

    read_only: bool
    destructive: bool
    idempotent: bool


READS = Effect(read_only=True, destructive=False, idempotent=True)
#: Each call adds something.
ADDS = Effect(read_only=False, destructive=False, idempotent=False)
#: A repeat changes nothing more.
CHANGES = Effect(read_only=False, destructive=False, idempotent=True)
#: Ends something that cannot be had back.
DESTROYS = Effect(read_only=False, destructive=True, idempotent=True)


def _ends_at_once(_: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Tool(Generic[_A]):
    """One tool. `name` has dots; catalog.py knows the other spelling. `words` tell of its arguments."""

    name: str
    title: str
    description: str
    effect: Effect
    arguments: type[_A]
    answer: type[Answer]
    run: Callable[[Call, _A], Awaitable[Answer]]
    words: Mapping[str, str]
    #: Whether a call with these arguments, which nobody has looked at yet, may last, so that it is worth to notice that
    #: its client has gone, or its credential has ended.
    waits: Callable[[Mapping[str, Any]], bool] = field(default=_ends_at_once)
    reports_progress: bool = False
