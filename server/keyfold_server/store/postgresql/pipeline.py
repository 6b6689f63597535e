"""Pipelines: PostgreSQL runs the statements of a trip one after the other and answers once.

SQLAlchemy looks at each statement's answer at once, which would end a pipeline. So it compiles the
statements, and hands over the whole trip as one. The driver's errors then go the same way as those
of a single statement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, LargeBinary, SmallInteger, Text, text
from sqlalchemy.exc import DBAPIError

from keyfold_server.store.database import faults
from keyfold_server.store.database.faults import not_taken
from keyfold_server.store.database.trip import Answer, Ending, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Column, Connection, Dialect, Executable, Table, TextClause
    from sqlalchemy.engine.interfaces import ExecutionContext

    from keyfold_server.store.postgresql.session import BoundedSession

TRIP: Final = "keyfold_trip"
"""Execution option of a trip, for the listener that sends it."""

_LABEL: Final = "-- trip"
"""The text in place of a trip's statements, where SQLAlchemy expects one statement."""

_CACHE: Final = 500
"""Most compiled statements in memory."""

_TYPES: Final = {
    LargeBinary: "BYTEA",
    SmallInteger: "SMALLINT",
    BigInteger: "BIGINT",
    Text: "TEXT",
}

_TOO_FEW: Final = "22012"
"""SQLSTATE of an ending that lacks one of the new rows: it divides by zero."""

_NO_HEAD: Final = "2201F"
"""SQLSTATE of an ending that did not change the one row: it takes the root of a negative number."""

_RULE: Final = "0A000"
"""SQLSTATE of an ending on a table with a rule, which may do something instead."""


@dataclass(slots=True)
class PendingTrip:
    """A trip on its way to the driver.

    Attributes:
        commands: The statements' texts, each with the parameters of every time that it runs.
        commit: Whether the transaction is committed with them.
        answers: The answers, once they are there.
    """

    commands: list[tuple[bytes, list[list[Any]]]]
    commit: bool
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: bytes
    parameters: Callable[[Mapping[str, Any]], list[Any]]


def run(connection: Connection, steps: Sequence[Step], *, commit: bool = False) -> list[Answer]:
    """Runs the steps of a trip in one round trip, the transaction's BEGIN included."""
    dialect: Any = type(connection.dialect)
    trip = PendingTrip([_command(dialect, step) for step in steps], commit)
    connection.exec_driver_sql(_LABEL, execution_options={TRIP: trip})
    return trip.answers


def finish(connection: Connection, ending: Ending, *, commit: bool) -> None:
    """Writes the last rows of a transaction by one statement, which fails if a row is missing.

    So the commit can go with it: the server skips a commit behind a statement that failed.
    """
    into, head = ending.into, ending.head
    values: dict[str, Any] = {"count": len(ending.rows)}
    for column, cells in zip(into.columns, zip(*ending.rows, strict=True), strict=True):
        values[f"new_{column.name}"] = list(cells)
    for column, cell in zip(head.columns, ending.row, strict=True):
        values[f"head_{column.name}"] = cell
    try:
        run(connection, [Step(_ending(into, head), [values])], commit=commit)
    except DBAPIError as error:
        state = faults.sqlstate(error)
        if state in (_TOO_FEW, _RULE):
            raise not_taken(into.name) from error
        if state == _NO_HEAD:
            raise not_taken(head.name) from error
        raise


@cache
def _ending(into: Table, head: Table) -> TextClause:
    """Returns the statement that writes an ending, whatever its number of rows."""
    names = ", ".join(into.columns.keys())
    arrays = ", ".join(f"CAST(:new_{c.name} AS {_type(c)}[])" for c in into.columns)
    key, *others = head.columns
    cells = ", ".join(f"{c.name} = CAST(:head_{c.name} AS {_type(c)})" for c in others)
    added = f"INSERT INTO {into.name} ({names}) SELECT * FROM unnest({arrays})"  # noqa: S608  names from the schema
    changed = f"UPDATE {head.name} SET {cells} WHERE {key.name} = :head_{key.name}"  # noqa: S608  as above
    # Either expression fails unless the database took every row (protocol S10).
    checked = (
        "1 / CAST((SELECT count(*) FROM added) = :count AS INT), "
        "sqrt((SELECT count(*) FROM changed) - 1)"
    )
    parts = f"added AS ({added} RETURNING 1), changed AS ({changed} RETURNING 1)"
    return text(f"WITH {parts} SELECT {checked}")


def _type(column: Column[Any]) -> str:
    return next(name for kind, name in _TYPES.items() if isinstance(column.type, kind))


def send(cursor: Any, _text: str, _parameters: Any, context: ExecutionContext) -> bool:
    """Sends a trip, or the BEGIN of a transaction that begins without one; for SQLAlchemy's events.

    Returns:
        False if SQLAlchemy shall execute the statement itself.
    """
    session: BoundedSession = cursor.connection
    trip: PendingTrip | None = context.execution_options.get(TRIP)
    if trip is None:
        session.begin()
        return False
    trip.answers = session.exchange(trip.commands, commit=trip.commit)
    return True


def _command(dialect: Any, step: Step) -> tuple[bytes, list[list[Any]]]:
    if not step.rows:
        return b"", []
    compiled = _compiled(dialect, step.statement, tuple(step.rows[0]))
    return compiled.text, [compiled.parameters(row) for row in step.rows]


@lru_cache(_CACHE)
def _compiled(dialect: type[Dialect], statement: Executable, names: tuple[str, ...]) -> _Compiled:
    numbered = dialect(paramstyle="numeric_dollar")  # type: ignore[call-arg]
    made: Any = statement.compile(dialect=numbered, column_keys=list(names))  # type: ignore[attr-defined]
    convert = {
        made.bind_names[bind]: processor
        for bind in made.bind_names
        if (processor := bind.type.dialect_impl(numbered).bind_processor(numbered)) is not None
    }
    order: list[str] = made.positiontup or []

    def parameters(row: Mapping[str, Any]) -> list[Any]:
        values = made.construct_params(row)
        return [convert[name](values[name]) if name in convert else values[name] for name in order]

    return _Compiled(str(made).encode(), parameters)
