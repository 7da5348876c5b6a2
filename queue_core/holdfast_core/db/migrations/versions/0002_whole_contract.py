"""The whole contract: lanes, scheduled jobs, request ids, logs, artifacts, idempotency keys, metrics history.

Revision: 0002, after 0001.
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

from holdfast_core.db.types import JSON_LIST, UTC_TIME, UUID_TEXT

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give each job its lane, then the new tables."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    _lanes()
    if postgresql:
        _jobs_postgresql()
    else:
        _jobs_sqlite()
    _job_indexes()
    _job_events()
    _artifacts()
    _idempotency_keys()
    _metrics_history()


def _lanes() -> None:
    op.create_table(
        "agent_job_lanes",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("required_capabilities", JSON_LIST, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_agent_job_lanes"),
        sa.UniqueConstraint("key", name="uq_agent_job_lanes_key"),
    )
    connection = op.get_bind()
    lanes = sa.table(
        "agent_job_lanes",
        sa.column("key", sa.String),
        sa.column("type", sa.String),
        sa.column("required_capabilities", JSON_LIST),
    )
    known: set[str] = set()
    text = sa.text("SELECT DISTINCT type, CAST(required_capabilities AS TEXT) AS required FROM agent_jobs")
    for row in connection.execute(text).all():
        required = json.loads(row.required)
        # As holdfast_core.store.lanes.lane_key: capabilities are stored sorted and without repeats.
        key = hashlib.sha256(" ".join([row.type, *required]).encode()).hexdigest()
        if key not in known:
            known.add(key)
            connection.execute(lanes.insert().values(key=key, type=row.type, required_capabilities=required))


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("request_id", sa.String(128)),
        sa.Column("asked_at", UTC_TIME),
        sa.Column("heartbeat_at", UTC_TIME),
        sa.Column("progressed_at", UTC_TIME),
        sa.Column("lane", sa.Integer),
        sa.Column("ready", sa.Boolean(create_constraint=False), nullable=False, server_default=sa.true()),
        sa.Column("enqueue_key", sa.String(64)),
        sa.Column("enqueue_body", sa.String(64)),
    ]


_FILL = """
    UPDATE agent_jobs SET
        heartbeat_at = CASE WHEN status = 'running' THEN updated_at END,
        progressed_at = CASE WHEN status = 'running' THEN updated_at END,
        ready = (status <> 'queued' OR next_attempt_at IS NULL),
        lane = (SELECT l.id FROM agent_job_lanes l WHERE l.type = agent_jobs.type
                AND CAST(l.required_capabilities AS TEXT) = CAST(agent_jobs.required_capabilities AS TEXT))
"""
_READY = "ready OR next_attempt_at IS NOT NULL"


def _jobs_postgresql() -> None:
    for column in _columns():
        op.add_column("agent_jobs", column)
    op.execute(_FILL)
    op.alter_column("agent_jobs", "lane", nullable=False)
    op.create_foreign_key("fk_agent_jobs_lane", "agent_jobs", "agent_job_lanes", ["lane"], ["id"])
    op.create_check_constraint(op.f("ck_agent_jobs_ready_unless_scheduled"), "agent_jobs", _READY)
    op.drop_index("ix_agent_jobs_ready", "agent_jobs")


def _jobs_sqlite() -> None:
    for column in _columns():
        op.add_column("agent_jobs", column)
    op.execute(_FILL)
    op.drop_index("ix_agent_jobs_ready", "agent_jobs")
    # SQLite adds constraints only by making the table anew.
    with op.batch_alter_table("agent_jobs", recreate="always") as batch:
        batch.alter_column("lane", existing_type=sa.Integer(), nullable=False)
        batch.create_foreign_key("fk_agent_jobs_lane", "agent_job_lanes", ["lane"], ["id"])
        batch.create_check_constraint(op.f("ck_agent_jobs_ready_unless_scheduled"), _READY)


def _job_indexes() -> None:
    indexes: list[tuple[str, list[str | sa.TextClause], str, bool]] = [
        (
            "ix_agent_jobs_ready",
            ["lane", sa.text("priority DESC"), "created_at", "id"],
            "status = 'queued' AND ready",
            False,
        ),
        ("ix_agent_jobs_scheduled", ["next_attempt_at"], "status = 'queued' AND NOT ready", False),
        ("ix_agent_jobs_finished", ["finished_at"], "finished_at IS NOT NULL", False),
        ("uq_agent_jobs_request", ["claim_worker", "request_id"], "request_id IS NOT NULL", True),
        ("uq_agent_jobs_enqueue_key", ["enqueue_key"], "enqueue_key IS NOT NULL", True),
    ]
    for name, columns, where, unique in indexes:
        condition = sa.text(where)
        op.create_index(
            name, "agent_jobs", columns, unique=unique, postgresql_where=condition, sqlite_where=condition
        )


def _job_events() -> None:
    op.create_table(
        "agent_job_events",
        sa.Column("job_id", UUID_TEXT, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("worker_id", sa.String(128)),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("payload", sa.JSON),
        sa.Column("created_at", UTC_TIME, nullable=False),
        sa.Column("notice", sa.String(64)),
        sa.PrimaryKeyConstraint("job_id", "sequence", name="pk_agent_job_events"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["agent_jobs.id"], name="fk_agent_job_events_job_id", ondelete="CASCADE"
        ),
        sa.CheckConstraint("level IN ('error', 'info', 'warn')", name=op.f("ck_agent_job_events_level")),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_agent_job_events_sequence")),
    )
    noticed = sa.text("notice IS NOT NULL")
    op.create_index(
        "uq_agent_job_events_notice",
        "agent_job_events",
        ["job_id", "notice"],
        unique=True,
        postgresql_where=noticed,
        sqlite_where=noticed,
    )


def _artifacts() -> None:
    op.create_table(
        "agent_job_artifacts",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("job_id", UUID_TEXT, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("content_type", sa.String(255), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("worker_id", sa.String(128), nullable=False),
        sa.Column("created_at", UTC_TIME, nullable=False),
        sa.Column("content", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_agent_job_artifacts"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["agent_jobs.id"], name="fk_agent_job_artifacts_job_id", ondelete="CASCADE"
        ),
        sa.CheckConstraint("size >= 0", name=op.f("ck_agent_job_artifacts_size")),
        sa.UniqueConstraint("job_id", "name", "digest", name="uq_agent_job_artifacts_job_id"),
    )


def _idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("body", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("warning", sa.Text),
        sa.Column("created_at", UTC_TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def _metrics_history() -> None:
    op.create_table(
        "metrics_history",
        sa.Column("minute", UTC_TIME, nullable=False),
        sa.Column("workers_paused", sa.Boolean(create_constraint=False), nullable=False),
        *(
            sa.Column(name, sa.Integer, nullable=False)
            for name in ("queued", "scheduled", "running", "parked", "stale_running")
        ),
        sa.Column("oldest_queued_seconds", sa.Float),
        *(
            sa.Column(name, sa.Integer, nullable=False)
            for name in ("succeeded", "failed", "cancelled", "dead_letter")
        ),
        sa.PrimaryKeyConstraint("minute", name="pk_metrics_history"),
    )
