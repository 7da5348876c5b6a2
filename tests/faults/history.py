"""What clients asked and what they were told: the whole evidence that the checker goes by.

All times are `time.monotonic()` of the one process that runs all clients, so they tell what came before what. Times
out of answers (`startedAt`, `leaseExpiresAt`, …) are the database's, as seconds since 1970.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from typing import Final as Constant

__all__ = ["UNREACHABLE", "Event", "Fault", "Final", "History", "JobRow", "Op", "Outcome"]

#: `ok`: answered 2xx. `refused`: answered 4xx, or never sent since there was no connection: nothing was done.
#: `unknown`: no answer, or a 5xx: it may have been done, or may still be done later.
Outcome = Literal["ok", "refused", "unknown"]


#: The code of a call that was never sent.
UNREACHABLE: Constant = "unreachable"


@dataclass(slots=True)
class Op:
    """One call. `args` and `answer` hold what the checker looks at; which names, faults.clients says.

    `end` is None where the outcome is unknown: its effect may come at any time after `call`.
    """

    id: int
    client: str
    verb: str
    server: str
    call: float
    args: dict[str, Any]
    end: float | None = None
    outcome: Outcome = "unknown"
    status: int = 0
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    @property
    def reached(self) -> bool:
        """Whether there was a server at all."""
        return self.answer.get("code") != UNREACHABLE

    @property
    def ended(self) -> float:
        """When it was over; never, if nobody knows."""
        return float("inf") if self.end is None else self.end


@dataclass(slots=True)
class Fault:
    """Something that the nemesis did. `calm`: nothing else went on around it, so that rates can be compared."""

    kind: str
    target: str
    begin: float
    end: float
    calm: bool = False


@dataclass(slots=True)
class JobRow:
    """A job as the database has it in the end. `request` and `number` name the enqueue that made it."""

    id: str
    type: str
    status: str
    priority: int
    created_at: float
    attempt: int
    token: str | None
    outcome: str | None
    request: int
    number: int


@dataclass(slots=True)
class Event:
    """A line of the audit log, in its order."""

    action: str
    outcome: str
    code: str | None
    reason: str
    version: int


@dataclass(slots=True)
class Final:
    """What the database holds in the end. `settled`: faults were over, and the queue had its time to run empty."""

    jobs: list[JobRow]
    events: list[Event]
    version: int
    paused: bool
    settled: bool = True


@dataclass
class History:
    """All calls, in the order of their making, and all faults."""

    database: Literal["postgresql", "sqlite"]
    seed: int = 0
    ops: list[Op] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def begin(self, client: str, verb: str, server: str, args: dict[str, Any]) -> Op:
        """Note a call that is about to be made."""
        op = Op(len(self.ops), client, verb, server, time.monotonic(), args)
        self.ops.append(op)
        return op

    def save(self, path: Path, final: Final) -> None:
        """Write it all as JSON lines."""
        lines: list[dict[str, Any]] = [{"database": self.database, "seed": self.seed}]
        lines += [{"op": asdict(op)} for op in self.ops]
        lines += [{"fault": asdict(fault)} for fault in self.faults]
        lines.append({"final": asdict(final)})
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def load(cls, path: Path) -> "tuple[History, Final]":
        """Read what `save` wrote."""
        head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
        history = cls(head["database"], head["seed"])
        final = Final([], [], 0, False)
        for line in lines:
            match line:
                case {"op": op}:
                    history.ops.append(Op(**op))
                case {"fault": fault}:
                    history.faults.append(Fault(**fault))
                case {"final": {"jobs": jobs, "events": events, **rest}}:
                    final = Final(
                        [JobRow(**job) for job in jobs], [Event(**event) for event in events], **rest
                    )
                case _:
                    raise ValueError(line)
        return history, final

    def with_ops(self, ops: Iterable[Op]) -> "History":
        """The same with these calls only."""
        return History(self.database, self.seed, list(ops), self.faults)
