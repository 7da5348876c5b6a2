"""What the holders of several jobs say, in one turn of SQLite's writer: their statements one after the other."""

from collections.abc import Sequence

from sqlalchemy import Connection

from holdfast_core.db.prepared import Rows, fetch
from holdfast_core.schemas import HeartbeatRequest
from holdfast_core.store.lease_batches import Holder
from holdfast_core.store.leases import completing, heartbeating

__all__ = ["complete_in_turn", "heartbeat_in_turn"]


def heartbeat_in_turn(connection: Connection, beats: Sequence[tuple[Holder, HeartbeatRequest]]) -> Rows:
    """Extend these leases. Missing: jobs whose caller does not hold them."""
    rows = Rows()
    for holder, request in beats:
        rows.extend(fetch(connection, *heartbeating(holder.job_id, request, holder.token_hash)))
    return rows


def complete_in_turn(connection: Connection, ends: Sequence[tuple[Holder, str | None]]) -> Rows:
    """End these jobs in `succeeded`, each with its summary. Missing: as for heartbeats."""
    rows = Rows()
    for holder, summary in ends:
        rows.extend(
            fetch(connection, *completing(holder.job_id, holder.worker_id, holder.token_hash, summary))
        )
    return rows
