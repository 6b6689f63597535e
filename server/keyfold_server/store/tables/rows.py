"""Writes rows, and notices those that the database did not take (protocol S10).

A trigger, a rule or a row-security policy can drop a write and report success. The number of rows
shows it, and the transaction fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyfold_server.store.database.faults import not_taken

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Delete, Insert, Table, Update

    from keyfold_server.store.schema import Cells


def named(table: Table, row: Cells) -> dict[str, Any]:
    """Returns a row's values by column."""
    return dict(zip(table.columns.keys(), row, strict=True))


def write(
    connection: Connection, statement: Insert | Update | Delete, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Runs a statement that must write, or delete, exactly one row for each of the given ones.

    Raises:
        RowNotAuthenticError: The database wrote another number of rows.
    """
    if rows and count(connection, statement, rows) != len(rows):
        raise not_taken(statement.table.description)


def count(
    connection: Connection, statement: Insert | Update | Delete, rows: Sequence[Mapping[str, Any]]
) -> int:
    """Runs a statement for each of the given rows, and returns how many rows it wrote."""
    return connection.execute(
        statement, rows, execution_options={"preserve_rowcount": True}
    ).rowcount
