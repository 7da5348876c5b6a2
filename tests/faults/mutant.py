"""A server that is broken on purpose, to see that the checker notices: `python mutant.py NAME serve --port 0`.

gate: the pause is looked at, but not behind the door: on PostgreSQL the claim's statement is without it, on SQLite it
goes by what it saw a moment ago. fence: tokens are not compared. audit: every third change of the pause is written
without its line in the log.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, true, update

__all__ = ["MUTANTS"]

#: How old what a broken claim goes by may be, in seconds.
STALE_SECONDS: Final = 0.2


def gate() -> None:
    """The pause is read, and the door is passed by."""
    from holdfast_core.schemas import System
    from holdfast_core.store import claims

    claims.door_is_open = true  # type: ignore[assignment]
    read = claims.read_system
    seen: list[tuple[float, System]] = []

    def read_late(connection: Connection) -> System:
        now = time.monotonic()
        if not seen or now - seen[-1][0] > STALE_SECONDS:
            seen.append((now, read(connection)))
        return seen[-1][1]

    claims.read_system = read_late


def fence() -> None:
    """A holder is known by its name alone."""
    from holdfast_core.services import leases, outcomes

    def no_fence(*_: Any) -> None:
        return None

    outcomes.fence = no_fence  # type: ignore[assignment]
    leases.fence = no_fence  # type: ignore[assignment]


def audit() -> None:
    """Every third change leaves no line in the log."""
    from holdfast_core.store import pause

    write = pause.write_change
    count = 0

    def write_most(
        connection: Connection, system: Any, event: Any, *, door: str | None, also: Sequence[Any] = ()
    ) -> None:
        nonlocal count
        count += 1
        if count % 3:
            write(connection, system, event, door=door, also=also)
            return
        kept = {name: getattr(system, name) for name in type(system).model_fields}
        kept["paused"] = kept.pop("workers_paused")
        values = {**kept, **({} if door is None else {"door": door})}
        connection.execute(update(pause.pause_state).where(pause.pause_state.c.id == 1).values(values))
        for statement in also:
            connection.execute(statement)

    pause.write_change = write_most


MUTANTS: Final[dict[str, Callable[[], None]]] = {"gate": gate, "fence": fence, "audit": audit}


if __name__ == "__main__":
    MUTANTS[sys.argv.pop(1)]()
    from holdfast_worker.cli import main

    main()
