"""New jobs of several callers in one statement (PostgreSQL)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    JSON,
    Connection,
    DateTime,
    Integer,
    String,
    Uuid,
    bindparam,
    cast,
    column,
    func,
    select,
    text,
    true,
)
from sqlalchemy.dialects import postgresql

from holdfast_core.db.prepared import Stored, run
from holdfast_core.db.tables import jobs, lanes
from holdfast_core.db.types import Now
from holdfast_core.states import JobStatus
from holdfast_core.store.jobs import SHOWN, New

__all__ = ["MOST_BYTES", "insert_together", "is_small"]

#: The largest payload, as JSON, of a job that shares a statement. Sixty-four of them are one request's worth.
MOST_BYTES: Final = 16_384

#: What is given for each job. The two of JSON come as text: there are no arrays of JSON to send.
_GIVEN: Final[dict[str, Any]] = {
    "id": Uuid(),
    "type": String(),
    "priority": Integer(),
    "payload": String(),
    "required_capabilities": String(),
    "affinity_key": String(),
    "next_attempt_at": DateTime(timezone=True),
    "max_attempts": Integer(),
    "created_by_user_id": Uuid(),
    "enqueue_key": String(),
    "enqueue_body": String(),
    "lane_key": String(),
}
_asked: Final = (
    func.unnest(*(bindparam(name, type_=ARRAY(kind)) for name, kind in _GIVEN.items()))
    .table_valued(*(column(name, kind) for name, kind in _GIVEN.items()))
    .render_derived(name="asked")
)
_values: Final[dict[str, Any]] = {
    **{name: _asked.c[name] for name in _GIVEN if name != "lane_key"},
    "payload": cast(_asked.c.payload, JSON()),
    "required_capabilities": cast(_asked.c.required_capabilities, postgresql.JSONB()),
    "status": cast(JobStatus.QUEUED.value, String(16)),
    "attempt": cast(1, Integer()),
    "ready": func.coalesce(_asked.c.next_attempt_at <= Now(stable=True), true()),
    # One moment for the whole batch: their ids keep them in order.
    "created_at": Now(stable=True),
    "updated_at": Now(stable=True),
    "lane": lanes.c.id,
}

# New jobs, waiting in their lanes. Not those whose lane is missing, or whose key is there already.
_INSERT_TOGETHER = (
    postgresql.insert(jobs)
    .from_select(
        list(_values),
        select(*_values.values()).select_from(_asked.join(lanes, lanes.c.key == _asked.c.lane_key)),
    )
    .on_conflict_do_nothing(index_elements=["enqueue_key"], index_where=text("enqueue_key IS NOT NULL"))
    .returning(*SHOWN)
)


def is_small(new: New) -> bool:
    """Whether it may share a statement: a large one would hold up the others."""
    return len(json.dumps(new.request.payload)) <= MOST_BYTES


def insert_together(connection: Connection, new: Sequence[New]) -> Mapping[UUID, Stored]:
    """Add these jobs. Missing: those whose lane is missing, or whose key another job has, also one of these."""
    rows = [_row(one) for one in new]
    values = {name: [row[name] for row in rows] for name in _GIVEN}
    return {row["id"]: row for row in run(connection, _INSERT_TOGETHER, values)}


def _row(new: New) -> dict[str, Any]:
    values = new.values()
    return {
        **values,
        "payload": json.dumps(values["payload"]),
        "required_capabilities": json.dumps(values["required_capabilities"]),
        "lane_key": new.lane_key,
    }
