"""What the holders of several jobs say, in one statement (PostgreSQL). None of this passes the gate.

The statements are those of one request (`holdfast_core.store.leases`) with arrays in place of values. A batch never
waits for a row, so two batches cannot wait for each other in a circle, and one job that somebody holds does not
keep the others from an answer: it is passed over, and its request made alone, where it waits by itself.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    JSON,
    Connection,
    String,
    Update,
    Uuid,
    any_,
    bindparam,
    cast,
    column,
    func,
    or_,
    select,
    true,
    update,
)

from holdfast_core.db.prepared import Stored, run
from holdfast_core.db.tables import jobs
from holdfast_core.schemas import HeartbeatRequest
from holdfast_core.states import JobStatus
from holdfast_core.store.given import listed
from holdfast_core.store.jobs import SHOWN
from holdfast_core.store.leases import complete_values, heartbeat_values

__all__ = ["Holder", "complete_together", "heartbeat_together", "held_statement", "one_a_job"]

_HOLDER: Final[dict[str, Any]] = {"job_id": Uuid(), "worker_id": String(), "token_hash": String()}


@dataclass(frozen=True, slots=True)
class Holder:
    """Who says to hold which job. `token_hash` None: any claim of this worker."""

    job_id: UUID
    worker_id: str
    token_hash: str | None


@cache
def held_statement(verb: Literal["heartbeat", "complete"]) -> Update:
    """Set what the verb sets, on each job that its caller holds and nobody else is writing just now."""
    asked = (
        func.unnest(*(bindparam(name, type_=ARRAY(kind)) for name, kind in _HOLDER.items()))
        .table_valued(*(column(name, kind) for name, kind in _HOLDER.items()))
        .render_derived(name="asked")
    )
    # One probe of the primary key for each: a sub-select with a row lock is never flattened, and the status is written
    # so that the index of running jobs does not serve, by which all that a worker holds would be walked. The lock is
    # the one that the update takes, so lines for a job's log, which refer to it, are not in its way.
    held = (
        select(jobs.c.id)
        .where(
            jobs.c.id == asked.c.job_id,
            jobs.c.status.concat("") == JobStatus.RUNNING.value,
            jobs.c.claimed_by == asked.c.worker_id,
            or_(asked.c.token_hash.is_(None), jobs.c.claim_token_hash == asked.c.token_hash),
        )
        .with_for_update(key_share=True, skip_locked=True)
        .lateral("held")
    )
    ids = select(held.c.id).select_from(asked.join(held, true()))
    given = listed(func.array_position(bindparam("job_id", type_=ARRAY(Uuid())), jobs.c.id))
    if verb == "complete":
        values = complete_values(given)
    else:
        progress = given("new_progress", String())
        values = heartbeat_values(given, progress.is_not(None))
        values["progress"] = func.coalesce(cast(progress, JSON()), jobs.c.progress)
    return (
        update(jobs)
        .where(jobs.c.id == any_(func.array(ids.scalar_subquery(), type_=ARRAY(Uuid()))))
        .values(values)
        .returning(*SHOWN)
    )


def one_a_job(holders: Sequence[Holder]) -> dict[UUID, int]:
    """The first request for each job: a row is written once in a statement, so the others are made alone."""
    return {holder.job_id: number for number, holder in reversed(list(enumerate(holders)))}


def heartbeat_together(
    connection: Connection, beats: Sequence[tuple[Holder, HeartbeatRequest]]
) -> Mapping[UUID, Stored]:
    """Extend these leases, of different jobs. Missing: jobs whose request has to be made alone."""
    requests = [request for _, request in beats]
    values: dict[str, list[Any]] = {
        "lease_seconds": [float(request.lease_seconds) for request in requests],
        "new_phase": [request.phase for request in requests],
        "new_checkpoint": [request.checkpoint for request in requests],
        "new_progress": [
            None if request.progress is None else json.dumps(request.progress) for request in requests
        ],
    }
    return _say(connection, "heartbeat", [holder for holder, _ in beats], values)


def complete_together(
    connection: Connection, ends: Sequence[tuple[Holder, str | None]]
) -> Mapping[UUID, Stored]:
    """End these different jobs in `succeeded`, each with its summary. Missing: as for heartbeats."""
    return _say(
        connection,
        "complete",
        [holder for holder, _ in ends],
        {"summary": [summary for _, summary in ends]},
    )


def _say(
    connection: Connection,
    verb: Literal["heartbeat", "complete"],
    holders: Sequence[Holder],
    values: dict[str, list[Any]],
) -> Mapping[UUID, Stored]:
    who = {name: [getattr(holder, name) for holder in holders] for name in _HOLDER}
    return {row["id"]: row for row in run(connection, held_statement(verb), {**who, **values})}
