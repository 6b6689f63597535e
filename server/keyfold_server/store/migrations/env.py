"""Runs migrations on the connection that `migrate` hands over, and leaves logging alone."""

from __future__ import annotations

from alembic import context

from keyfold_server.store.schema import metadata

# Alembic opens no transaction: `migrate` has one already, which holds the lock that keeps two
# replicas from migrating at once.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
