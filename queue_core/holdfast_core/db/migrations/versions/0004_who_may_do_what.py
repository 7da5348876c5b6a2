"""Who may do what: tokens of people and of workers, sessions of browsers, and who vouches for a user.

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

from holdfast_core.db.types import JSON_LIST_OR_NULL, UTC_TIME, UUID_TEXT

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_PEOPLE = "role IN ('admin', 'operator', 'producer', 'viewer')"


def upgrade() -> None:
    """New columns, all of them empty, and new tables: the release before does not miss them."""
    with op.batch_alter_table("users") as users:
        users.add_column(sa.Column("issuer", sa.String(2_048)))
        users.add_column(sa.Column("subject", sa.String(255)))
        users.create_check_constraint(
            op.f("ck_users_issuer_with_subject"), "(issuer IS NULL) = (subject IS NULL)"
        )
    op.create_index(
        "uq_users_subject",
        "users",
        ["issuer", "subject"],
        unique=True,
        postgresql_where=sa.text("issuer IS NOT NULL"),
        sqlite_where=sa.text("issuer IS NOT NULL"),
    )
    op.create_table(
        "api_tokens",
        *_token_columns("api_tokens"),
        sa.Column("user_id", UUID_TEXT, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        _to_users("api_tokens", "user_id"),
        sa.CheckConstraint(_PEOPLE, name=op.f("ck_api_tokens_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
    )
    op.create_table(
        "agent_worker_tokens",
        *_token_columns("agent_worker_tokens"),
        sa.Column("worker_id", sa.String(128), nullable=False),
        sa.Column("types", JSON_LIST_OR_NULL),
        sa.Column("capabilities", JSON_LIST_OR_NULL),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_worker_tokens")),
    )
    op.create_index("ix_agent_worker_tokens_worker_id", "agent_worker_tokens", ["worker_id"])
    op.create_table(
        "sessions",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("user_id", UUID_TEXT, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("token_id", UUID_TEXT),
        sa.Column("created_at", UTC_TIME, nullable=False),
        sa.Column("expires_at", UTC_TIME, nullable=False),
        sa.Column("ended_at", UTC_TIME),
        _to_users("sessions", "user_id"),
        sa.ForeignKeyConstraint(
            ["token_id"], ["api_tokens.id"], name=op.f("fk_sessions_token_id"), ondelete="RESTRICT"
        ),
        sa.CheckConstraint(_PEOPLE, name=op.f("ck_sessions_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])


def _token_columns(table: str) -> list[sa.schema.SchemaItem]:
    return [
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("created_at", UTC_TIME, nullable=False),
        sa.Column("created_by", sa.String(255)),
        sa.Column("created_by_user_id", UUID_TEXT),
        sa.Column("expires_at", UTC_TIME),
        sa.Column("revoked_at", UTC_TIME),
        sa.Column("last_used_at", UTC_TIME),
        _to_users(table, "created_by_user_id"),
    ]


def _to_users(table: str, column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], ["users.id"], name=op.f(f"fk_{table}_{column}"), ondelete="RESTRICT"
    )
