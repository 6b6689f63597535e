"""What a database says that it would do for the statements of a store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, event

from keyfold_server.store.postgresql import pipeline

GROW: Final = {
    "clusters",
    "regions",
    "generations",
    "wraps",
    "wrap_history",
    "history_checkpoints",
    "log",
    "requests",
    "observations",
    "generation_uses",
    "usage",
    "identities",
    "organizations",
    "key_links",
    "holders",
    "operations",
    "operation_failures",
}
"""Tables that grow with clusters, with time or with calls."""


@contextmanager
def collected() -> Iterator[dict[str, Any]]:
    """Collects every statement that SQLAlchemy executes, each with one set of its parameters."""
    found: dict[str, Any] = {}

    def collect(*executed: Any) -> None:
        _, _, statement, parameters, context, many = executed
        note(statement, parameters[0] if many else parameters)
        trip = context.execution_options.get(pipeline.TRIP)
        for text, rows in trip.commands if trip is not None else ():
            note(text.decode(), rows[0] if rows else [])

    def note(statement: str, parameters: Any) -> None:
        if statement.split(" ", 1)[0] in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}:
            found.setdefault(statement, parameters)

    event.listen(Engine, "before_cursor_execute", collect)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", collect)


def scanned_by_sqlite(connection: Connection, statement: str, parameters: Any) -> set[str]:
    """Returns the tables that SQLite would scan, with or without an index."""
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    aliases = dict.fromkeys(("root", "kek", "own_root", "own_kek"), "observations")
    aliases |= dict.fromkeys(("other", "next"), "regions")
    names = [detail.split()[1] for *_, detail in plan if detail.startswith("SCAN ")]
    return {aliases.get(name, name) for name in names}


def scanned_by_postgresql(
    connection: Connection, statement: str, parameters: Any, *, forced: bool = False
) -> set[str]:
    """Returns the tables that PostgreSQL would read as a whole.

    Args:
        connection: A connection inside a transaction.
        statement: The statement.
        parameters: Its parameters.
        forced: Returns the tables that PostgreSQL could only read as a whole, however few rows they
            have now.
    """
    for way in ("seqscan", "hashjoin", "mergejoin") if forced else ():
        connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
    explain = f"EXPLAIN (FORMAT JSON) {statement}"
    if isinstance(parameters, list):
        # A statement of a trip, as the driver gets it.
        session: Any = connection.connection.driver_connection
        [explained] = session.exchange([(explain.encode(), [parameters])])
        [(plan,)] = explained.rows
    else:
        plan = connection.exec_driver_sql(explain, parameters).scalar_one()
    [top] = json.loads(plan) if isinstance(plan, str) else plan
    return set(_scans(top["Plan"], limited=False))


def rows_read(connection: Connection, statement: Select[Any]) -> int:
    """Returns how many rows PostgreSQL reads from tables and indexes for a statement, run once."""
    compiled = statement.compile(
        dialect=connection.dialect, compile_kwargs={"render_postcompile": True}
    )
    explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {compiled}"
    [top] = connection.exec_driver_sql(explain, compiled.params).scalar_one()
    return round(_read(top["Plan"]))


def _read(node: dict[str, Any]) -> float:
    # Nodes that read no table pass on what they got.
    own: float = node["Actual Rows"] if "Relation Name" in node or "Index Name" in node else 0
    own += node.get("Rows Removed by Filter", 0)
    loops: float = node["Actual Loops"]
    return own * loops + sum(map(_read, node.get("Plans", ())))


def _scans(node: dict[str, Any], *, limited: bool) -> Iterator[str]:
    kind = node["Node Type"]
    # Under a limit, an index in the wanted order is read only as far as the page goes.
    whole = kind == "Seq Scan" or (
        kind in {"Index Scan", "Index Only Scan"} and "Index Cond" not in node and not limited
    )
    if whole:
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from _scans(child, limited=limited or kind == "Limit")
