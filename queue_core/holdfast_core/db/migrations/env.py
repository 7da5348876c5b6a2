"""Alembic's entry: runs on the connection that `migrate` hands it, inside its transaction and lock."""

from alembic import context

from holdfast_core.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
context.run_migrations()
