"""Push sessions: which one is a worker's latest, and what workers say of themselves.

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

from holdfast_core.db.types import JSON_LIST, UUID_TEXT

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """New columns, all of them empty: the release before does not miss them."""
    for column in (
        sa.Column("session_id", UUID_TEXT),
        sa.Column("types", JSON_LIST),
        sa.Column("slots", sa.Integer),
        sa.Column("runtime", sa.String(200)),
        sa.Column("version", sa.String(200)),
    ):
        op.add_column("workers", column)
