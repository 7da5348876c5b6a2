"""Coalescing: requests that come while a statement of their kind is under way go out together as the next one.

There is no timer. Who comes alone goes out at once and alone, so that one caller waits for nothing; who comes while
a statement is under way stands in line, in the order of coming, and the whole line (`MOST_TOGETHER` at most) is the
next statement. The longer statements take, the more share one: that is all the tuning there is.

Whose the statement is. It is sent by the first of those who share it, in that caller's own task, so it has an owner
and there is no background task that could die or be forgotten. Its cancellation must not cut the others' statement,
so it is held off while the statement is under way, as it is for everybody whose request has been sent: what was
written for a caller must be known before the caller may go (`holdfast_core.db.database.uncancelled` does the same
for a caller alone). It meets the caller at its next checkpoint, where a claim gives its job back. Who is cancelled
in line leaves the line, and nothing was ever asked for it. Who is cancelled between being called up and waking has
been sent, or has to send: it does, since the others count on it.

What can go wrong. A statement that finds the store away has told each of its callers what it would have heard
alone: that goes to all. Any other failure may be the fault of one, so each tries again alone, and the one fails
alone. They do so in their own tasks, and the line goes on meanwhile.

Nobody starves: the line is first come, first served, and who comes while it is not empty cannot pass it.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

import structlog
from anyio import CancelScope, Event, get_cancelled_exc_class

from holdfast_core.errors import StoreUnavailable

__all__ = ["MOST_TOGETHER", "Batches"]

log = structlog.get_logger(__name__)

#: Requests of one statement.
MOST_TOGETHER: Final = 64

Kind = TypeVar("Kind", bound=Hashable)
Asked = TypeVar("Asked")
Told = TypeVar("Told")


class _Caller(Generic[Asked, Told]):
    """One who stands in line, or whose request is under way."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        #: Set when there is something to do: to send for `company`, or to go on with what came of it.
        self.called = Event()
        self.in_line = True
        #: Those whose requests this one has to send, itself among them.
        self.company: Sequence[_Caller[Asked, Told]] = ()
        self.told: Told | None = None
        self.failure: StoreUnavailable | None = None


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
        self._lines: dict[Kind, deque[_Caller[Asked, Told]]] = {}

    def waiting(self, kind: Kind) -> int | None:
        """How many stand in line behind the statement under way; None where there is none."""
        line = self._lines.get(kind)
        return None if line is None else len(line)

    async def ask(self, kind: Kind, asked: Asked) -> Told:
        """What comes of this request. Raises what `alone` raises.

        Cancelled in line it was never asked. Cancelled later it is answered all the same, and the cancellation
        meets the caller at its next checkpoint: who has to undo what was written looks for it there.
        """
        line = self._lines.get(kind)
        if line is None:
            self._lines[kind] = deque()
            try:
                return await self._alone(asked)
            finally:
                self._call_up(kind)
        caller: _Caller[Asked, Told] = _Caller(asked)
        line.append(caller)
        try:
            await caller.called.wait()
        except get_cancelled_exc_class():
            if caller.in_line:
                line.remove(caller)
                raise
        if caller.company:
            with CancelScope(shield=True):
                await self._send(kind, caller.company)
        elif not caller.called.is_set():
            with CancelScope(shield=True):
                await caller.called.wait()
        if caller.failure is not None:
            raise StoreUnavailable(caller.failure.detail) from caller.failure
        return await self._alone(asked) if caller.told is None else caller.told

    def _call_up(self, kind: Kind) -> None:
        """A statement has ended: the line is the next one."""
        line = self._lines[kind]
        if not line:
            del self._lines[kind]
            return
        company = [line.popleft() for _ in range(min(len(line), self._most))]
        for caller in company:
            caller.in_line = False
        company[0].company = company
        company[0].called.set()

    async def _send(self, kind: Kind, company: Sequence[_Caller[Asked, Told]]) -> None:
        try:
            if len(company) > 1:  # one that is alone is not held up here: it goes alone
                told = await self._together([caller.asked for caller in company])
                for caller, one in zip(company, told, strict=True):
                    caller.told = one
            else:
                company[0].told = await self._alone(company[0].asked)
        except StoreUnavailable as error:
            for caller in company:
                caller.failure = error
        except Exception as error:
            if len(company) == 1:
                raise
            log.warning("batch_failed", requests=len(company), cause=type(error).__name__)
        finally:
            for caller in company:
                caller.called.set()
            self._call_up(kind)
