"""On SQLite, leases have an index: what runs is counted, and what has run out is found, without a look at each job.

Revision: 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Not on PostgreSQL, where heartbeats would no longer leave a row in its place (HOT)."""
    if op.get_bind().dialect.name == "sqlite":
        op.create_index(
            "ix_agent_jobs_leases",
            "agent_jobs",
            ["lease_expires_at", "phase"],
            sqlite_where=sa.text("status = 'running'"),
        )
