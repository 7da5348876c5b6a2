"""Coalescing: requests that come while a statement of their kind is under way go out together as the next one.

There is no timer. Who finds nothing under way waits for one turn of the event loop, in which others whose requests
have come with it can join, and goes out; who comes while a statement is under way stands in line, in the order of
coming, and the whole line (`MOST_TOGETHER` at most) is the next statement. The longer statements take, the more
share one: that is all the tuning there is.

Whose the statement is. It has a task of its own, which nobody who shares it can cut: what was written for a caller
must be known before the caller may go (`holdfast_core.db.database.uncancelled` does the same for a caller alone). So
from the moment when a request is sent its caller's cancellation is held off, and meets the caller at its next
checkpoint, where a claim gives its job back. Who is cancelled in line leaves the line, and nothing was ever asked for
it.

Who asks needs no task: a caller may leave word whom to call instead, and be called in the order of the line.

What can go wrong. A statement that finds the store away has told each of its callers what it would have heard
alone: that goes to all. Any other failure may be the fault of one, so each tries again alone, and the one fails
alone. They do so in their own tasks, and the line goes on meanwhile.

Nobody starves: the line is first come, first served, and who comes while it is not empty cannot pass it.
"""

from asyncio import CancelledError, Future, Task, get_running_loop
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

import structlog
from anyio import CancelScope

from holdfast_core.errors import StoreUnavailable

__all__ = ["MOST_TOGETHER", "Asking", "Batches", "Begun"]

log = structlog.get_logger(__name__)

#: Requests of one statement. Of 64 callers that come again at once this leaves half to be answered while the other half
#: is with the store; were all of them in one statement, the store and this process would wait for each other in turns.
MOST_TOGETHER: Final = 32

Kind = TypeVar("Kind", bound=Hashable)
Asked = TypeVar("Asked")
Told = TypeVar("Told")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Begun(Generic[Answer]):
    """A call of a service that is under way without a task. Whoever began it has to take what comes of it."""

    #: Have this called once it is over. It has to be quick, and must not raise.
    when_over: Callable[[Callable[[], None]], None]
    #: Once it is over: the answer. None where there is more to do, or it was refused: `finish` does that.
    plain: Callable[[], Answer | None]
    #: Wait until it is over; the answer. Raises what the call raises.
    finish: Callable[[], Awaitable[Answer]]


class Asking(Generic[Asked, Told]):
    """A request that stands in line, or is under way, or has been answered."""

    __slots__ = ("_wake", "asked", "failure", "is_over", "line", "told")

    def __init__(self, asked: Asked, line: "deque[Asking[Asked, Told]]") -> None:
        self.asked = asked
        #: Where it stands; None once it has been sent.
        self.line: deque[Asking[Asked, Told]] | None = line
        self.is_over = False
        #: What came of it, once it is over. None: it has to be asked alone, or has failed.
        self.told: Told | None = None
        self.failure: Exception | None = None
        self._wake: Callable[[], None] | None = None

    def when_over(self, wake: Callable[[], None]) -> None:
        """Have this called once it is over, which it is not yet. It has to be quick, and must not raise."""
        self._wake = wake

    def end(self) -> None:
        """It is over."""
        self.is_over = True
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    async def wait(self) -> None:
        """Until it is over."""
        # A plain future: an event costs as much as the rest of a request's way through here.
        if not self.is_over:
            called: Future[None] = get_running_loop().create_future()
            self.when_over(partial(_call, called))
            await called


def _call(waiting: "Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)


class Batches(Generic[Kind, Asked, Told]):
    """Sends requests of one kind together.

    `alone` answers one request. `together` answers several, in their order; None for each that has to be asked
    alone after all. Either may be called again for a request whose statement failed: a failure leaves nothing.
    """

    def __init__(
        self,
        alone: Callable[[Asked], Awaitable[Told]],
        together: Callable[[Sequence[Asked]], Awaitable[Sequence[Told | None]]],
        *,
        most: int = MOST_TOGETHER,
    ) -> None:
        self._alone = alone
        self._together = together
        self._most = most
        #: The line of each kind that has a statement under way.
        self._lines: dict[Kind, deque[Asking[Asked, Told]]] = {}
        #: Held, since the event loop does not.
        self._statements: set[Task[None]] = set()

    def waiting(self, kind: Kind) -> int | None:
        """How many stand in line behind the statement under way; None where there is none."""
        line = self._lines.get(kind)
        return None if line is None else len(line)

    def begin(self, kind: Kind, asked: Asked) -> Asking[Asked, Told]:
        """Put this request in line. It is asked whether or not somebody waits for it."""
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = deque()
            get_running_loop().call_soon(self._call_up, kind)
        asking: Asking[Asked, Told] = Asking(asked, line)
        line.append(asking)
        return asking

    async def ask(self, kind: Kind, asked: Asked) -> Told:
        """What comes of this request: `begin` and `finish`."""
        return await self.finish(self.begin(kind, asked))

    async def finish(self, asking: Asking[Asked, Told]) -> Told:
        """What comes of a request that was begun. Raises what `alone` raises.

        Cancelled in line it was never asked. Cancelled later it is answered all the same, and the cancellation
        meets the caller at its next checkpoint: who has to undo what was written looks for it there.
        """
        try:
            await asking.wait()
        except CancelledError:
            if asking.line is not None:
                asking.line.remove(asking)
                raise
            with CancelScope(shield=True):
                await asking.wait()
        if isinstance(asking.failure, StoreUnavailable):
            raise StoreUnavailable(asking.failure.detail) from asking.failure
        if asking.failure is not None:
            raise asking.failure
        return await self._alone(asking.asked) if asking.told is None else asking.told

    def _call_up(self, kind: Kind) -> None:
        """No statement is under way: the line is the next one."""
        line = self._lines[kind]
        if not line:
            del self._lines[kind]
            return
        company = [line.popleft() for _ in range(min(len(line), self._most))]
        for asking in company:
            asking.line = None
        statement = get_running_loop().create_task(self._send(kind, company))
        self._statements.add(statement)
        statement.add_done_callback(self._statements.discard)

    async def _send(self, kind: Kind, company: Sequence[Asking[Asked, Told]]) -> None:
        try:
            if len(company) > 1:
                told = await self._together([asking.asked for asking in company])
                for asking, one in zip(company, told, strict=True):
                    asking.told = one
            else:
                company[0].told = await self._alone(company[0].asked)
        except Exception as error:
            if len(company) == 1 or isinstance(error, StoreUnavailable):
                for asking in company:
                    asking.failure = error
            else:
                log.warning("batch_failed", requests=len(company), cause=type(error).__name__)
        finally:
            self._call_up(kind)
            # Behind the next statement's first step, so that the store is not idle while answers are made.
            get_running_loop().call_soon(_end, company)


def _end(company: Sequence[Asking[Asked, Told]]) -> None:
    for asking in company:
        try:
            asking.end()
        except Exception:  # a bug, which is not to keep the others from their answers
            log.exception("batch_answer_failed")
