"""The gate: once a pause has been answered, no claim commits, in any process, until a resume.

The problem
-----------
A claim and a pause race. "Read the flag, then claim" lets a claim that has read *running* commit after the
pause was answered; put into one statement it still does, because on PostgreSQL the statement's snapshot may be
older than the pause's commit (measured: 36 of 40 pauses leak with a sub-select, 39 of 40 with a lock taken in
the same statement's CTE; serializable leaks as well, since a serial order is not a real-time order). And the
check must cost next to nothing, because every claim makes it.

The algorithm
-------------
Two halves, and neither trusts the other.

1. *The cache can only ever say "paused".* `GateCache` holds the last `system` that this process has seen. If it
   says paused, a claim is answered from memory. If it says running, that is no permission: the database is
   asked. So a stale "paused" delays a resume (by one refresh, at most a second; a push makes it milliseconds),
   and a stale "running" can do no harm.

2. *The database decides, in the claim's own transaction.* Claims pass a door that the pause closes.

   PostgreSQL: the door is the table lock of `pause_gate`, which is always empty. A claim is one statement that
   names it (`NOT EXISTS (SELECT 1 FROM pause_gate FOR KEY SHARE)`: ROW SHARE), reads the row of the pause, and
   takes the job; claims that come together are one such statement that takes a job for each. A pause takes
   EXCLUSIVE, which waits for the claims in flight and holds up new ones, writes, and commits. Chosen over the
   equally exact shared advisory lock inside a PL/pgSQL function because the statement stays here, beside its
   table, instead of being code in the database that each release has to replace; and because a dump, which
   takes ACCESS SHARE, does not disturb it.

   SQLite: writers take turns, first on a lock file, then by BEGIN IMMEDIATE (`holdfast_core.db.sqlite`), so a
   claim's read of the pause and its commit cannot be split by a pause.

What can race, and why it is safe
---------------------------------
- *The snapshot against the lock.* PostgreSQL locks the tables that a statement names while it is parsed or its
  cached plan is revalidated, and takes the snapshot that it runs with after that (`exec_bind_message`, then
  `PortalStart` in tcop/postgres.c). So a claim that waited at the door sees what the pause committed. This is
  true under READ COMMITTED alone: the sessions say so at their start, whatever the role's or the database's
  default, and the start-up looks and refuses (`holdfast_core.db.postgres`). A claim is one statement in
  autocommit, so no older snapshot of the same transaction can exist.
- *The planner.* A sub-select with a row lock is never flattened away, and the lock on the table does not depend
  on whether the sub-select is run.
- *Toggles against each other.* They lock the row of the pause first (FOR UPDATE), then the door. Claims read
  that row without a lock, so there is no cycle. A toggle that changes nothing, is refused, or resumes never
  touches the door.
- *A claimer that froze* (stopped, or not reading its answer) holds the door open. Its session's own time-outs
  free most cases. A pause that has waited a second ends the sessions that hold the door; what they were doing
  rolls back, so nothing they took is taken.
- *A failover that lost commits.* The version falls: the cache is dropped, and an alarm raised.

What passes the gate: whatever takes a job or moves one unasked (claims, offers, the sweep of expired leases).
What never waits for it: what a holder or a person asks for (heartbeats, outcomes, release, cancel, requeue,
retry), or a drain could not end.

The proof in production: a pause stores what had been claimed when the door closed (`door`); running jobs whose
claim is not in it are counted (`holdfast_core.store.metrics.violations`) and must be none.
"""

from typing import Any, Final

import structlog
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    String,
    cast,
    exists,
    literal,
    literal_column,
    select,
    text,
)

from holdfast_core.clock import Clock
from holdfast_core.db.tables import pause_gate
from holdfast_core.errors import PauseNotConfirmed
from holdfast_core.schemas import System

__all__ = ["GateCache", "close_door", "door_is_open"]

log = structlog.get_logger(__name__)

#: How long one attempt to close the door waits before the sessions that hold it are ended.
DOOR_WAIT_SECONDS: Final = 1
#: Attempts. With the 2 s that a toggle waits for the row of the pause before, this is the 5 s within which a
#: toggle is made or answered "not confirmed" (CONTRACT section 3).
DOOR_TRIES: Final = 3

# The exclusive side, in one round trip, with a savepoint of its own. EXCLUSIVE conflicts with the claims' ROW SHARE,
# not with a dump's ACCESS SHARE. A statement of its own, so that what comes after sees what the claims committed.
_CLOSE = text(
    f"""
    DO $$
    BEGIN
        SET LOCAL lock_timeout = '{DOOR_WAIT_SECONDS}s';
        LOCK TABLE pause_gate IN EXCLUSIVE MODE;
        PERFORM set_config('holdfast.door', 'closed', true);
    EXCEPTION WHEN lock_not_available THEN
        PERFORM set_config('holdfast.door', 'open', true);
    END $$
    """
)

# End the sessions that hold the door open. All of them are claims or sweeps: nothing else names this table.
_END_HOLDERS = text(
    """
    SELECT l.pid, pg_terminate_backend(l.pid) AS ended
    FROM pg_locks l
    WHERE l.locktype = 'relation' AND l.relation = 'pause_gate'::regclass AND l.granted
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.mode = 'RowShareLock' AND l.pid <> pg_backend_pid()
    """
)

# What has been claimed by now, if the door is closed; else null.
_DOOR_POSTGRESQL: Final[ColumnElement[str]] = literal_column(
    "CASE current_setting('holdfast.door') WHEN 'closed' THEN pg_current_snapshot()::text END", String()
).label("door")
_DOOR_SQLITE = select(cast(pause_gate.c.claims, String()).label("door")).scalar_subquery().label("door")


def door_is_open() -> ColumnElement[bool]:
    """PostgreSQL: the condition that makes a claim's statement pass the door. Always true once it has passed."""
    return ~exists(select(literal(1)).select_from(pause_gate).with_for_update(read=True, key_share=True))


def close_door(connection: Connection, then: Select[Any]) -> Row[Any]:
    """Wait for the claims in flight and hold up new ones until this transaction ends.

    Returns the row of `then`, which is read behind the closed door (a round trip less than to ask for it by itself),
    with `door` in it: what had been claimed by then, for the count of violations. Raises PauseNotConfirmed where the
    door cannot be had in time.
    """
    if connection.dialect.name == "sqlite":
        return connection.execute(then.add_columns(_DOOR_SQLITE)).one()  # our turn as the writer is the door
    for _ in range(DOOR_TRIES):
        connection.execute(_CLOSE)
        row = connection.execute(then.add_columns(_DOOR_POSTGRESQL)).one()
        if row.door is not None:
            return row
        ended = [row.pid for row in connection.execute(_END_HOLDERS)]
        log.warning("gate_holders_ended", sessions=ended)
    raise PauseNotConfirmed(
        "Claims in flight could not be ended in time, so the pause was not made. Repeat it; if this goes on,"
        " look for sessions that hold a lock on pause_gate in pg_locks."
    )


class GateCache:
    """The last known `system` of this process. It can say "paused"; it never gives permission."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._system: System | None = None
        self._learnt_at = float("-inf")

    @property
    def system(self) -> System | None:
        """What was last seen, or None before the first look."""
        return self._system

    def paused(self) -> System | None:
        """The system if it is known to be paused, for an answer from memory. None means: ask the database."""
        known = self._system
        return known if known is not None and known.workers_paused else None

    def learn(self, system: System, *, asked_at: float) -> bool:
        """Take in what the database said. `asked_at`: the clock's monotonic time before the question.

        Returns whether this changed what is known. An answer that was overtaken is left aside. A version
        that fell, though the question came after the newer answer, means that the database has lost
        commits that it acknowledged.
        """
        known = self._system
        if known is not None and system.version <= known.version:
            if system.version == known.version or asked_at <= self._learnt_at:
                return False
            log.error(
                "pause_version_fell",
                pause_version=system.version,
                known_version=known.version,
                advice="the database lost commits that it had acknowledged: check the pause and the audit log",
            )
        self._system = system
        self._learnt_at = self._clock.monotonic()
        return True
