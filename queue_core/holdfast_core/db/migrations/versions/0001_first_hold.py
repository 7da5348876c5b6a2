"""The first hold: pause, gate, audit log, users, jobs, workers.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

from holdfast_core.db.types import JSON_LIST, UTC_TIME, UUID_TEXT

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

LOCAL_USER = "00000000-0000-0000-0000-000000000000"


def upgrade() -> None:
    """Make everything, and the first rows: the local user, the pause's row, SQLite's count of claims."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    _users()
    _pause()
    _control_events()
    _jobs(postgresql)
    _workers()
    if postgresql:
        _postgresql()
    else:
        _sqlite()


def _users() -> None:
    op.create_table(
        "users",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created_at", UTC_TIME, nullable=False),
        sa.Column("disabled_at", UTC_TIME),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
    )


def _pause() -> None:
    op.create_table(
        "system_worker_pause_state",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("paused", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("mode", sa.String(16)),
        sa.Column("reason", sa.Text),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("requested_by_user_id", UUID_TEXT),
        sa.Column("requested_by", sa.String(255)),
        sa.Column("requested_at", UTC_TIME),
        sa.Column("updated_at", UTC_TIME, nullable=False),
        sa.Column("resume_at", UTC_TIME),
        sa.Column("door", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_system_worker_pause_state"),
        sa.ForeignKeyConstraint(
            ["requested_by_user_id"],
            ["users.id"],
            name="fk_system_worker_pause_state_requested_by_user_id",
            ondelete="RESTRICT",
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_system_worker_pause_state_single_row")),
        sa.CheckConstraint("mode IN ('drain', 'quiesce')", name=op.f("ck_system_worker_pause_state_mode")),
        sa.CheckConstraint(
            "(paused AND mode IS NOT NULL AND reason IS NOT NULL AND requested_at IS NOT NULL)"
            " OR (NOT paused AND mode IS NULL AND reason IS NULL AND requested_at IS NULL"
            " AND resume_at IS NULL)",
            name=op.f("ck_system_worker_pause_state_mode_exactly_when_paused"),
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_system_worker_pause_state_version")),
    )
    op.create_table(
        "pause_gate",
        sa.Column("claims", sa.BigInteger, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("claims", name="pk_pause_gate"),
    )


def _control_events() -> None:
    op.create_table(
        "system_control_events",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("control", sa.String(32), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64)),
        sa.Column("mode", sa.String(16)),
        sa.Column("reason", sa.Text),
        sa.Column("actor_user_id", UUID_TEXT),
        sa.Column("actor", sa.String(255)),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("force_resume", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("resume_at", UTC_TIME),
        sa.Column("running", sa.Integer),
        sa.Column("stale_running", sa.Integer),
        sa.Column("created_at", UTC_TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_system_control_events"),
        sa.ForeignKeyConstraint(
            ["actor_user_id"],
            ["users.id"],
            name="fk_system_control_events_actor_user_id",
            ondelete="RESTRICT",
        ),
        sa.CheckConstraint("action IN ('pause', 'resume')", name=op.f("ck_system_control_events_action")),
        sa.CheckConstraint(
            "outcome IN ('changed', 'refused', 'unchanged')", name=op.f("ck_system_control_events_outcome")
        ),
        sa.CheckConstraint("mode IN ('drain', 'quiesce')", name=op.f("ck_system_control_events_mode")),
        sa.CheckConstraint(
            "(outcome = 'refused') = (code IS NOT NULL)",
            name=op.f("ck_system_control_events_code_exactly_when_refused"),
        ),
    )
    op.create_index("ix_system_control_events_created_at", "system_control_events", ["created_at"])
    changed = sa.text("outcome = 'changed'")
    op.create_index(
        "uq_system_control_events_version",
        "system_control_events",
        ["control", "version"],
        unique=True,
        postgresql_where=changed,
        sqlite_where=changed,
    )


def _jobs(postgresql: bool) -> None:
    terminal = "status IN ('cancelled', 'dead_letter', 'failed', 'succeeded')"
    op.create_table(
        "agent_jobs",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("required_capabilities", JSON_LIST, nullable=False),
        sa.Column("affinity_key", sa.String(128)),
        sa.Column("claimed_by", sa.String(128)),
        sa.Column("lease_expires_at", UTC_TIME),
        sa.Column("next_attempt_at", UTC_TIME),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(16)),
        sa.Column("checkpoint", sa.String(200)),
        sa.Column("progress", sa.JSON),
        sa.Column("result_summary", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("cancel_requested_at", UTC_TIME),
        sa.Column("cancel_reason", sa.Text),
        sa.Column("created_by_user_id", UUID_TEXT),
        sa.Column("started_at", UTC_TIME),
        sa.Column("finished_at", UTC_TIME),
        sa.Column("created_at", UTC_TIME, nullable=False),
        sa.Column("updated_at", UTC_TIME, nullable=False),
        sa.Column("claim_worker", sa.String(128)),
        sa.Column("claim_token_hash", sa.String(64)),
        sa.Column("claim_outcome", sa.String(16)),
        sa.Column("claim_number", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_agent_jobs"),
        sa.ForeignKeyConstraint(
            ["created_by_user_id"], ["users.id"], name="fk_agent_jobs_created_by_user_id", ondelete="RESTRICT"
        ),
        sa.CheckConstraint(
            "status IN ('cancelled', 'dead_letter', 'failed', 'queued', 'running', 'succeeded')",
            name=op.f("ck_agent_jobs_status"),
        ),
        sa.CheckConstraint("priority BETWEEN -1000 AND 1000", name=op.f("ck_agent_jobs_priority")),
        sa.CheckConstraint(
            "attempt BETWEEN 1 AND max_attempts AND max_attempts <= 100", name=op.f("ck_agent_jobs_attempt")
        ),
        sa.CheckConstraint("phase IN ('parked', 'parking', 'running')", name=op.f("ck_agent_jobs_phase")),
        sa.CheckConstraint(
            "(status = 'running') = (lease_expires_at IS NOT NULL)",
            name=op.f("ck_agent_jobs_lease_exactly_when_running"),
        ),
        sa.CheckConstraint(
            "status <> 'running' OR (claimed_by IS NOT NULL AND claim_worker = claimed_by"
            " AND claim_token_hash IS NOT NULL AND claim_outcome IS NULL AND claim_number IS NOT NULL"
            " AND phase IS NOT NULL AND started_at IS NOT NULL)",
            name=op.f("ck_agent_jobs_running_has_claim"),
        ),
        sa.CheckConstraint(
            "status = 'running' OR phase IS NULL", name=op.f("ck_agent_jobs_phase_only_when_running")
        ),
        sa.CheckConstraint(
            "status <> 'queued' OR claimed_by IS NULL", name=op.f("ck_agent_jobs_queued_has_no_claimer")
        ),
        sa.CheckConstraint(
            f"({terminal}) = (finished_at IS NOT NULL)",
            name=op.f("ck_agent_jobs_finished_exactly_when_terminal"),
        ),
        sa.CheckConstraint(
            "status <> 'succeeded' OR claimed_by IS NOT NULL",
            name=op.f("ck_agent_jobs_succeeded_keeps_claimer"),
        ),
    )
    queued, running = sa.text("status = 'queued'"), sa.text("status = 'running'")
    op.create_index(
        "ix_agent_jobs_ready",
        "agent_jobs",
        [sa.text("priority DESC"), "created_at", "id"],
        postgresql_where=queued,
        sqlite_where=queued,
    )
    op.create_index(
        "ix_agent_jobs_running",
        "agent_jobs",
        ["claimed_by"],
        postgresql_where=running,
        sqlite_where=running,
    )
    if postgresql:
        # Room on each page for heartbeats to stay HOT; and a queue table changes faster than the
        # default settings expect.
        op.execute(
            "ALTER TABLE agent_jobs SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02,"
            " autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05,"
            " autovacuum_vacuum_cost_delay = 0)"
        )


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("capabilities", JSON_LIST, nullable=False),
        sa.Column("transport", sa.String(8), nullable=False),
        sa.Column("auto_enabled", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("observed_version", sa.BigInteger),
        sa.Column("interval_seconds", sa.Float, nullable=False),
        sa.Column("first_seen_at", UTC_TIME, nullable=False),
        sa.Column("last_seen_at", UTC_TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
        sa.CheckConstraint("transport IN ('mcp', 'rest', 'ws')", name=op.f("ck_workers_transport")),
    )
    op.create_index("ix_workers_last_seen_at", "workers", ["last_seen_at"])


def _postgresql() -> None:
    for statement in (
        "ALTER TABLE pause_gate ADD CONSTRAINT ck_pause_gate_stays_empty CHECK (false)",
        f"INSERT INTO users (id, name, created_at) VALUES ('{LOCAL_USER}', 'local operator', clock_timestamp())",
        "INSERT INTO system_worker_pause_state (id, paused, version, updated_at)"
        " VALUES (1, false, 1, clock_timestamp())",
        """
        CREATE FUNCTION holdfast_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
        END $$
        """,
        """
        CREATE FUNCTION holdfast_next_version() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.version <> OLD.version + 1 THEN
                RAISE EXCEPTION 'the version grows by exactly one'
                    USING ERRCODE = 'integrity_constraint_violation';
            END IF;
            RETURN NEW;
        END $$
        """,
        "CREATE TRIGGER system_control_events_append_only"
        " BEFORE UPDATE OR DELETE ON system_control_events"
        " FOR EACH ROW EXECUTE FUNCTION holdfast_refuse('system_control_events is append-only')",
        "CREATE TRIGGER system_control_events_no_truncate"
        " BEFORE TRUNCATE ON system_control_events"
        " FOR EACH STATEMENT EXECUTE FUNCTION holdfast_refuse('system_control_events is append-only')",
        "CREATE TRIGGER system_worker_pause_state_version"
        " BEFORE UPDATE ON system_worker_pause_state"
        " FOR EACH ROW EXECUTE FUNCTION holdfast_next_version()",
        "CREATE TRIGGER system_worker_pause_state_stays"
        " BEFORE DELETE ON system_worker_pause_state"
        " FOR EACH ROW EXECUTE FUNCTION holdfast_refuse('the row of the pause stays')",
        "CREATE TRIGGER system_worker_pause_state_no_truncate"
        " BEFORE TRUNCATE ON system_worker_pause_state"
        " FOR EACH STATEMENT EXECUTE FUNCTION holdfast_refuse('the row of the pause stays')",
    ):
        op.execute(statement)


def _sqlite() -> None:
    now = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"
    for statement in (
        "INSERT INTO pause_gate (claims) VALUES (0)",
        f"INSERT INTO users (id, name, created_at) VALUES ('{LOCAL_USER}', 'local operator', {now})",
        f"INSERT INTO system_worker_pause_state (id, paused, version, updated_at) VALUES (1, false, 1, {now})",
        "CREATE TRIGGER system_control_events_no_update BEFORE UPDATE ON system_control_events"
        " BEGIN SELECT RAISE(ABORT, 'system_control_events is append-only'); END",
        "CREATE TRIGGER system_control_events_no_delete BEFORE DELETE ON system_control_events"
        " BEGIN SELECT RAISE(ABORT, 'system_control_events is append-only'); END",
        # INSERT OR REPLACE deletes without the trigger above.
        "CREATE TRIGGER system_control_events_no_replace BEFORE INSERT ON system_control_events"
        " WHEN EXISTS (SELECT 1 FROM system_control_events WHERE id = NEW.id OR rowid = NEW.rowid"
        " OR (outcome = 'changed' AND NEW.outcome = 'changed'"
        " AND control = NEW.control AND version = NEW.version))"
        " BEGIN SELECT RAISE(ABORT, 'system_control_events is append-only'); END",
        "CREATE TRIGGER system_worker_pause_state_version BEFORE UPDATE ON system_worker_pause_state"
        " WHEN NEW.version <> OLD.version + 1"
        " BEGIN SELECT RAISE(ABORT, 'the version grows by exactly one'); END",
        "CREATE TRIGGER system_worker_pause_state_stays BEFORE DELETE ON system_worker_pause_state"
        " BEGIN SELECT RAISE(ABORT, 'the row of the pause stays'); END",
        "CREATE TRIGGER system_worker_pause_state_no_replace BEFORE INSERT ON system_worker_pause_state"
        " WHEN EXISTS (SELECT 1 FROM system_worker_pause_state)"
        " BEGIN SELECT RAISE(ABORT, 'the row of the pause stays'); END",
    ):
        op.execute(statement)
