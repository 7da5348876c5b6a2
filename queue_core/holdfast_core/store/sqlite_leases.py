"""What the holders of several jobs say, in one statement of a turn of SQLite's writer.

One statement, since the thread that writes waits for the interpreter at each return from SQLite, and finds it with the
event loop: thirty short statements take longer than one that is as long as they.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

from sqlalchemy import JSON, Connection, String, Update, func, or_, type_coerce, update

from holdfast_core.db.prepared import Rows, fetch, later
from holdfast_core.db.tables import jobs
from holdfast_core.db.types import UTC_TIME
from holdfast_core.schemas import HeartbeatRequest
from holdfast_core.states import JobStatus
from holdfast_core.store.given import asked, asking
from holdfast_core.store.jobs import SHOWN
from holdfast_core.store.lease_batches import Holder
from holdfast_core.store.leases import complete_values, heartbeat_values

__all__ = ["complete_in_turn", "heartbeat_in_turn", "held_in_turn"]


@cache
def held_in_turn(verb: Literal["heartbeat", "complete"]) -> Update:
    """Set what the verb sets, on each job that its caller holds."""
    token_hash = asked("token_hash", String())
    if verb == "complete":
        values = complete_values(asked)
    else:
        progress = asked("new_progress", String())
        values = heartbeat_values(asked, progress.is_not(None))
        values["progress"] = func.coalesce(type_coerce(progress, JSON()), jobs.c.progress)
        values["lease_expires_at"] = asked("lease_expires_at", UTC_TIME)
    return (
        update(jobs)
        .where(
            type_coerce(jobs.c.id, String()) == asked("job_id", String()),
            # So that only the primary key serves.
            jobs.c.status.concat("") == JobStatus.RUNNING.value,
            jobs.c.claimed_by == asked("worker_id", String()),
            or_(token_hash.is_(None), jobs.c.claim_token_hash == token_hash),
        )
        .values(values)
        .returning(*SHOWN)
    )


def heartbeat_in_turn(connection: Connection, beats: Sequence[tuple[Holder, HeartbeatRequest]]) -> Rows:
    """Extend these leases, of different jobs. Missing: jobs whose caller does not hold them."""
    said = [
        {
            **_holder(holder),
            "lease_expires_at": later(connection, request.lease_seconds),
            "new_phase": request.phase,
            "new_checkpoint": request.checkpoint,
            "new_progress": None if request.progress is None else json.dumps(request.progress),
        }
        for holder, request in beats
    ]
    return fetch(connection, held_in_turn("heartbeat"), asking(said))


def complete_in_turn(connection: Connection, ends: Sequence[tuple[Holder, str | None]]) -> Rows:
    """End these different jobs in `succeeded`, each with its summary. Missing: as for heartbeats."""
    said = [{**_holder(holder), "summary": summary} for holder, summary in ends]
    return fetch(connection, held_in_turn("complete"), asking(said))


def _holder(holder: Holder) -> Mapping[str, Any]:
    return {
        "job_id": str(holder.job_id),
        "worker_id": holder.worker_id,
        "token_hash": holder.token_hash,
    }
