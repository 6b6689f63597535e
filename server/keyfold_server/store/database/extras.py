"""Extras: what somebody else attached to Keyfold's tables (protocol S10).

Triggers, rules and row-security policies can drop or change what Keyfold writes, a view can stand
in place of a table, and a child table adds its rows to what Keyfold reads. Keyfold makes none of
these, so it warns of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects import postgresql

from keyfold_server.store.schema import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SQLITE: Final = text(
    "SELECT type || ' ' || name || ' on ' || tbl_name FROM sqlite_master "
    # SQLite tells no upper from lower case in names, and keeps them as they were written.
    "WHERE type = 'trigger' AND lower(tbl_name) IN :tables "
    "UNION ALL SELECT 'view ' || name FROM sqlite_master "
    "WHERE type = 'view' AND lower(name) IN :tables ORDER BY 1"
).bindparams(bindparam("tables", sorted(metadata.tables), expanding=True))

_POSTGRESQL: Final = text(
    "WITH ours AS (SELECT oid, relname, relkind, relrowsecurity FROM pg_catalog.pg_class "
    "WHERE oid IN (SELECT to_regclass(name) FROM unnest(:tables) AS name)) "
    "SELECT 'trigger ' || tgname || ' on ' || relname FROM pg_catalog.pg_trigger "
    "JOIN ours ON ours.oid = tgrelid WHERE NOT tgisinternal "
    "UNION ALL SELECT 'rule ' || rulename || ' on ' || relname FROM pg_catalog.pg_rewrite "
    "JOIN ours ON ours.oid = ev_class WHERE rulename <> '_RETURN' "
    "UNION ALL SELECT 'row security on ' || relname FROM ours WHERE relrowsecurity "
    "UNION ALL SELECT 'policy ' || polname || ' on ' || relname FROM pg_catalog.pg_policy "
    "JOIN ours ON ours.oid = polrelid "
    "UNION ALL SELECT 'view ' || relname FROM ours WHERE relkind NOT IN ('r', 'p') "
    "UNION ALL SELECT 'child table ' || child.relname || ' of ' || ours.relname "
    "FROM pg_catalog.pg_inherits JOIN ours ON ours.oid = inhparent "
    "JOIN pg_catalog.pg_class AS child ON child.oid = inhrelid "
    "ORDER BY 1"
).bindparams(bindparam("tables", sorted(metadata.tables), postgresql.ARRAY(postgresql.TEXT)))


def of_sqlite(connection: Connection) -> list[str]:
    """Returns the kind, name and table of every extra."""
    return list(connection.execute(_SQLITE).scalars())


def of_postgresql(connection: Connection) -> list[str]:
    """Returns the kind, name and table of every extra."""
    return list(connection.execute(_POSTGRESQL).scalars())


def none(_connection: Connection) -> list[str]:
    """Returns nothing: for servers whose catalogue is not known."""
    return []


def warning(extra: str) -> str:
    """Says what an extra may do."""
    return (
        f"the store has a {extra}, which Keyfold did not make and which can drop or change what "
        "Keyfold writes: find out who made it, and remove it"
    )
