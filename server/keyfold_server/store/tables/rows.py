"""Writes rows, and notices those that the database did not take (protocol S10).

A trigger, a rule or a row-security policy can drop a write and report success. The number of rows
shows it, and the transaction fails.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, insert, update

from keyfold_server.store.database.faults import not_taken
from keyfold_server.store.database.trip import Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Delete, Insert, Table, Update

    from keyfold_server.store.schema import Cells


def named(table: Table, row: Cells) -> dict[str, Any]:
    """Returns a row's values by column."""
    return dict(zip(table.columns.keys(), row, strict=True))


def inserting(table: Table, cells: Iterable[Cells]) -> Step:
    """Returns the step that adds rows to a table."""
    return Step(_insert(table), [named(table, row) for row in cells])


def changing(table: Table, cells: Iterable[Cells]) -> Step:
    """Returns the step that gives other values to rows, which it finds by their primary keys."""
    keys = {column.name for column in table.primary_key}
    return Step(
        _update(table),
        [
            {_key(name) if name in keys else name: v for name, v in named(table, row).items()}
            for row in cells
        ],
    )


def deleting(table: Table, keys: Iterable[Cells]) -> Step:
    """Returns the step that removes the rows with some primary keys."""
    names = [_key(column.name) for column in table.primary_key]
    return Step(_delete(table), [dict(zip(names, key, strict=True)) for key in keys])


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


@cache
def _update(table: Table) -> Update:
    return update(table).where(*_this(table))


@cache
def _delete(table: Table) -> Delete:
    return delete(table).where(*_this(table))


def _this(table: Table) -> Iterator[ColumnElement[bool]]:
    return (column == bindparam(_key(column.name)) for column in table.primary_key)


def _key(column: str) -> str:
    """Returns the parameter for a column of the key, which differs from that of its new value."""
    return f"key_{column}"


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
