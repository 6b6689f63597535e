"""Runs migrations on the connection that `migrate` hands over; configures no logging."""

from __future__ import annotations

from alembic import context

from keyfold_server.store.schema import metadata

# The caller's transaction holds them: it took the whole store, or nothing would keep two
# replicas from migrating at once.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
