"""The tables (CONTRACT section 10), with the invariants as named constraints.

Triggers and the settings of the queue table stand in the migrations. A test compares this page with
the sum of the migrations.
"""

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    UniqueConstraint,
    literal_column,
    text,
    true,
)

from holdfast_core.db.types import JSON_LIST, JSON_LIST_OR_NULL, UTC_TIME, UUID_TEXT
from holdfast_core.states import TERMINAL, JobPhase, JobStatus, PauseAction, PauseMode, Role

__all__ = [
    "api_tokens",
    "artifacts",
    "control_events",
    "idempotency_keys",
    "is_ready",
    "job_events",
    "jobs",
    "lanes",
    "metadata",
    "metrics_history",
    "pause_gate",
    "pause_state",
    "sessions",
    "status_is",
    "users",
    "worker_tokens",
    "workers",
]

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _one_of(column: str, values: object) -> str:
    listed = ", ".join(f"'{value}'" for value in sorted(str(v) for v in values))  # type: ignore[attr-defined]
    return f"{column} IN ({listed})"


def _index(name: str, *columns: str | TextClause, where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, postgresql_where=text(where), sqlite_where=text(where))


users: Final = Table(
    "users",
    metadata,
    Column("id", UUID_TEXT, primary_key=True),
    Column("name", String(255), nullable=False),
    Column("created_at", UTC_TIME, nullable=False),
    # Users are disabled, never deleted: the audit log names them.
    Column("disabled_at", UTC_TIME),
    # Who vouches for the user, and under which name: an OpenID provider and its `sub`, or us (`local`) and the name.
    Column("issuer", String(2_048)),
    Column("subject", String(255)),
    CheckConstraint("(issuer IS NULL) = (subject IS NULL)", name="issuer_with_subject"),
    _index("uq_users_subject", "issuer", "subject", unique=True, where="issuer IS NOT NULL"),
)


def _token_columns() -> list[Column[Any]]:
    """What tokens of both kinds have."""
    return [
        Column("id", UUID_TEXT, primary_key=True),
        Column("name", String(255), nullable=False),
        # SHA-256 of the whole token: it is random, so there is nothing to guess.
        Column("token_hash", String(64), nullable=False),
        Column("created_at", UTC_TIME, nullable=False),
        Column("created_by", String(255)),
        Column("created_by_user_id", UUID_TEXT, ForeignKey("users.id", ondelete="RESTRICT")),
        Column("expires_at", UTC_TIME),
        Column("revoked_at", UTC_TIME),
        # Written behind, at most once a minute.
        Column("last_used_at", UTC_TIME),
    ]


# Tokens of people and programs: what they do is done by the user behind them.
api_tokens: Final = Table(
    "api_tokens",
    metadata,
    *_token_columns(),
    Column("user_id", UUID_TEXT, ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("role", String(16), nullable=False),
    CheckConstraint(_one_of("role", set(Role) - {Role.WORKER}), name="role"),
)

# Tokens of workers, each bound to one worker id; null types or capabilities: any.
worker_tokens: Final = Table(
    "agent_worker_tokens",
    metadata,
    *_token_columns(),
    Column("worker_id", String(128), nullable=False),
    Column("types", JSON_LIST_OR_NULL),
    Column("capabilities", JSON_LIST_OR_NULL),
    Index("ix_agent_worker_tokens_worker_id", "worker_id"),
)

# Sessions of browsers: a login is traded for one.
sessions: Final = Table(
    "sessions",
    metadata,
    Column("id", UUID_TEXT, primary_key=True),
    # SHA-256 of the cookie's value.
    Column("secret_hash", String(64), nullable=False),
    Column("user_id", UUID_TEXT, ForeignKey("users.id", ondelete="RESTRICT"), nullable=False),
    Column("role", String(16), nullable=False),
    # The token that was traded for it: the session ends with it. Null for a login at the OpenID provider.
    Column("token_id", UUID_TEXT, ForeignKey("api_tokens.id", ondelete="RESTRICT")),
    Column("created_at", UTC_TIME, nullable=False),
    Column("expires_at", UTC_TIME, nullable=False),
    Column("ended_at", UTC_TIME),
    CheckConstraint(_one_of("role", set(Role) - {Role.WORKER}), name="role"),
    Index("ix_sessions_expires_at", "expires_at"),
)

pause_state: Final = Table(
    "system_worker_pause_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("paused", Boolean(create_constraint=False), nullable=False),
    Column("mode", String(16)),
    Column("reason", Text),
    Column("version", BigInteger, nullable=False),
    Column("requested_by_user_id", UUID_TEXT, ForeignKey("users.id", ondelete="RESTRICT")),
    Column("requested_by", String(255)),
    Column("requested_at", UTC_TIME),
    Column("updated_at", UTC_TIME, nullable=False),
    Column("resume_at", UTC_TIME),
    # What had been claimed when the door closed: a claim that is not in it broke the promise.
    # PostgreSQL: pg_current_snapshot(); SQLite: the number of the last claim.
    Column("door", Text),
    CheckConstraint("id = 1", name="single_row"),
    CheckConstraint(_one_of("mode", PauseMode), name="mode"),
    CheckConstraint(
        "(paused AND mode IS NOT NULL AND reason IS NOT NULL AND requested_at IS NOT NULL)"
        " OR (NOT paused AND mode IS NULL AND reason IS NULL AND requested_at IS NULL AND resume_at IS NULL)",
        name="mode_exactly_when_paused",
    ),
    CheckConstraint("version >= 1", name="version"),
)

# PostgreSQL: an empty table whose lock is the door (see holdfast_core.gate). A constraint keeps it empty.
# SQLite: one row that counts the claims; the door there is the writers' lock.
pause_gate: Final = Table(
    "pause_gate", metadata, Column("claims", BigInteger, primary_key=True, autoincrement=False)
)

control_events: Final = Table(
    "system_control_events",
    metadata,
    Column("id", UUID_TEXT, primary_key=True),
    Column("control", String(32), nullable=False),
    Column("action", String(16), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("code", String(64)),
    Column("mode", String(16)),
    Column("reason", Text),
    Column("actor_user_id", UUID_TEXT, ForeignKey("users.id", ondelete="RESTRICT")),
    Column("actor", String(255)),
    Column("version", BigInteger, nullable=False),
    Column("force_resume", Boolean(create_constraint=False), nullable=False),
    Column("resume_at", UTC_TIME),
    Column("running", Integer),
    Column("stale_running", Integer),
    Column("created_at", UTC_TIME, nullable=False),
    CheckConstraint(_one_of("action", PauseAction), name="action"),
    CheckConstraint(_one_of("outcome", ("changed", "unchanged", "refused")), name="outcome"),
    CheckConstraint(_one_of("mode", PauseMode), name="mode"),
    CheckConstraint("(outcome = 'refused') = (code IS NOT NULL)", name="code_exactly_when_refused"),
    Index("ix_system_control_events_created_at", "created_at"),
    # Each version has exactly one event that made it.
    Index(
        "uq_system_control_events_version",
        "control",
        "version",
        unique=True,
        postgresql_where=text("outcome = 'changed'"),
        sqlite_where=text("outcome = 'changed'"),
    ),
)

_terminal = _one_of("status", TERMINAL)

# One row for each kind of job that was ever queued: a claim looks only into the lanes that it matches, so it
# never walks past jobs that it cannot take.
lanes: Final = Table(
    "agent_job_lanes",
    metadata,
    Column("id", Integer, primary_key=True),
    # SHA-256 of the two below, since an index entry has less room than they may take.
    Column("key", String(64), nullable=False),
    Column("type", String(128), nullable=False),
    Column("required_capabilities", JSON_LIST, nullable=False),
    UniqueConstraint("key", name="uq_agent_job_lanes_key"),
)

jobs: Final = Table(
    "agent_jobs",
    metadata,
    Column("id", UUID_TEXT, primary_key=True),
    Column("type", String(128), nullable=False),
    Column("status", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    # json, not jsonb: a payload comes back as it came, and nothing searches it.
    Column("payload", JSON(none_as_null=True), nullable=False),
    Column("required_capabilities", JSON_LIST, nullable=False),
    Column("affinity_key", String(128)),
    Column("claimed_by", String(128)),
    Column("lease_expires_at", UTC_TIME),
    Column("next_attempt_at", UTC_TIME),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("phase", String(16)),
    Column("checkpoint", String(200)),
    Column("progress", JSON(none_as_null=True)),
    Column("result_summary", Text),
    Column("error_message", Text),
    Column("cancel_requested_at", UTC_TIME),
    Column("cancel_reason", Text),
    Column("created_by_user_id", UUID_TEXT, ForeignKey("users.id", ondelete="RESTRICT")),
    Column("started_at", UTC_TIME),
    Column("finished_at", UTC_TIME),
    Column("created_at", UTC_TIME, nullable=False),
    Column("updated_at", UTC_TIME, nullable=False),
    # The current claim, or the last one: who made it, the SHA-256 of its token, and how it ended
    # (null while it runs; a verb of its holder; or `void`, when it was ended for it). By these a
    # repeated outcome is known, and a late one is told that its lease is lost.
    Column("claim_worker", String(128)),
    Column("claim_token_hash", String(64)),
    Column("claim_outcome", String(16)),
    # PostgreSQL: the claim's transaction id; SQLite: its number. Compared with the pause's `door`.
    Column("claim_number", BigInteger),
    # The requestId of that claim, and when the call that made it (or repeated it last) had arrived.
    Column("request_id", String(128)),
    Column("asked_at", UTC_TIME),
    # The last heartbeat, and the last time that the holder reported a phase, checkpoint or progress.
    Column("heartbeat_at", UTC_TIME),
    Column("progressed_at", UTC_TIME),
    Column("lane", Integer, ForeignKey("agent_job_lanes.id"), nullable=False),
    # False while a queued job waits for its time; the sweep promotes it.
    Column("ready", Boolean(create_constraint=False), nullable=False, server_default=true()),
    # SHA-256 of who enqueued it and the idempotency key, and of the request.
    Column("enqueue_key", String(64)),
    Column("enqueue_body", String(64)),
    CheckConstraint("ready OR next_attempt_at IS NOT NULL", name="ready_unless_scheduled"),
    CheckConstraint(_one_of("status", JobStatus), name="status"),
    CheckConstraint("priority BETWEEN -1000 AND 1000", name="priority"),
    CheckConstraint("attempt BETWEEN 1 AND max_attempts AND max_attempts <= 100", name="attempt"),
    CheckConstraint(_one_of("phase", JobPhase), name="phase"),
    CheckConstraint(
        "(status = 'running') = (lease_expires_at IS NOT NULL)", name="lease_exactly_when_running"
    ),
    CheckConstraint(
        "status <> 'running' OR (claimed_by IS NOT NULL AND claim_worker = claimed_by"
        " AND claim_token_hash IS NOT NULL AND claim_outcome IS NULL AND claim_number IS NOT NULL"
        " AND phase IS NOT NULL AND started_at IS NOT NULL)",
        name="running_has_claim",
    ),
    CheckConstraint("status = 'running' OR phase IS NULL", name="phase_only_when_running"),
    CheckConstraint("status <> 'queued' OR claimed_by IS NULL", name="queued_has_no_claimer"),
    CheckConstraint(f"({_terminal}) = (finished_at IS NOT NULL)", name="finished_exactly_when_terminal"),
    CheckConstraint("status <> 'succeeded' OR claimed_by IS NOT NULL", name="succeeded_keeps_claimer"),
    # Claims walk a lane of this in its order. Heartbeats touch no indexed column, so they stay HOT.
    _index(
        "ix_agent_jobs_ready",
        "lane",
        text("priority DESC"),
        "created_at",
        "id",
        where="status = 'queued' AND ready",
    ),
    # What the sweep promotes.
    _index("ix_agent_jobs_scheduled", "next_attempt_at", where="status = 'queued' AND NOT ready"),
    # What retention removes, and what ended in a minute.
    _index("ix_agent_jobs_finished", "finished_at", where="finished_at IS NOT NULL"),
    # One claim has one job. A claim without a requestId is not in here.
    _index(
        "uq_agent_jobs_request", "claim_worker", "request_id", unique=True, where="request_id IS NOT NULL"
    ),
    _index("uq_agent_jobs_enqueue_key", "enqueue_key", unique=True, where="enqueue_key IS NOT NULL"),
    Index(
        "ix_agent_jobs_running",
        "claimed_by",
        postgresql_where=text("status = 'running'"),
        sqlite_where=text("status = 'running'"),
    ),
    # SQLite: counts what runs, within the turn of a pause, and finds what has run out.
    Index(
        "ix_agent_jobs_leases", "lease_expires_at", "phase", sqlite_where=text("status = 'running'")
    ).ddl_if(dialect="sqlite"),
)


def status_is(status: JobStatus) -> ColumnElement[bool]:
    """The condition on a job's status, with the status in the statement's text: with a bound value a
    generic plan could not use the partial indexes."""
    return jobs.c.status == literal_column(f"'{status.value}'", String())


def is_ready(table: str = jobs.name, *, yet: bool = True) -> ColumnElement[bool]:
    """The condition that a job is ready, or with `yet=False` that it is not, as the partial indexes have it:
    SQLite does not see `ready = 1`, which SQLAlchemy would write there, to be the same, and reads the whole table."""
    return literal_column(f"{'' if yet else 'NOT '}{table}.ready")


workers: Final = Table(
    "workers",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("capabilities", JSON_LIST, nullable=False),
    Column("transport", String(8), nullable=False),
    Column("auto_enabled", Boolean(create_constraint=False), nullable=False),
    Column("observed_version", BigInteger),
    Column("interval_seconds", Float, nullable=False),
    Column("first_seen_at", UTC_TIME, nullable=False),
    Column("last_seen_at", UTC_TIME, nullable=False),
    # The push session that it opened last: an older one, wherever it is, is over.
    Column("session_id", UUID_TEXT),
    # What it has said of itself; null where it has not.
    Column("types", JSON_LIST_OR_NULL),
    Column("slots", Integer),
    Column("runtime", String(200)),
    Column("version", String(200)),
    CheckConstraint(_one_of("transport", ("rest", "mcp", "ws")), name="transport"),
    Index("ix_workers_last_seen_at", "last_seen_at"),
)

job_events: Final = Table(
    "agent_job_events",
    metadata,
    Column("job_id", UUID_TEXT, ForeignKey("agent_jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("worker_id", String(128)),
    Column("level", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("payload", JSON(none_as_null=True)),
    Column("created_at", UTC_TIME, nullable=False),
    # What the server itself says once, whichever process says it first.
    Column("notice", String(64)),
    CheckConstraint(_one_of("level", ("info", "warn", "error")), name="level"),
    CheckConstraint("sequence >= 1", name="sequence"),
    _index("uq_agent_job_events_notice", "job_id", "notice", unique=True, where="notice IS NOT NULL"),
)

artifacts: Final = Table(
    "agent_job_artifacts",
    metadata,
    Column("id", UUID_TEXT, primary_key=True),
    Column("job_id", UUID_TEXT, ForeignKey("agent_jobs.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("content_type", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", String(71), nullable=False),
    Column("worker_id", String(128), nullable=False),
    Column("created_at", UTC_TIME, nullable=False),
    # Null: the bytes are in a file of the artifact folder, named by the id.
    Column("content", LargeBinary),
    CheckConstraint("size >= 0", name="size"),
    # The same bytes under the same name are the same artifact: a repeated upload finds it.
    UniqueConstraint("job_id", "name", "digest", name="uq_agent_job_artifacts_job_id"),
)

idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    # SHA-256 of the principal, the route and the key.
    Column("key", String(64), primary_key=True),
    # SHA-256 of the request.
    Column("body", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("warning", Text),
    Column("created_at", UTC_TIME, nullable=False),
    Index("ix_idempotency_keys_created_at", "created_at"),
)

metrics_history: Final = Table(
    "metrics_history",
    metadata,
    Column("minute", UTC_TIME, primary_key=True),
    Column("workers_paused", Boolean(create_constraint=False), nullable=False),
    Column("queued", Integer, nullable=False),
    Column("scheduled", Integer, nullable=False),
    Column("running", Integer, nullable=False),
    Column("parked", Integer, nullable=False),
    Column("stale_running", Integer, nullable=False),
    Column("oldest_queued_seconds", Float),
    Column("succeeded", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("cancelled", Integer, nullable=False),
    Column("dead_letter", Integer, nullable=False),
)
