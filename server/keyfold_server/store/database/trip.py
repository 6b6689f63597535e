"""Trips: statements that go to the database together and cost one round trip (protocol S13).

A store may be across a continent, so what counts there is not how many statements a change has but
how often it waits for an answer. A statement of a trip cannot use what another one of the same trip
returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import bindparam, insert, update

from keyfold_server.store.database.faults import not_taken

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Executable, Table

    from keyfold_server.store.schema import Cells

_ONCE: Final[tuple[Mapping[str, Any], ...]] = ({},)


@dataclass(frozen=True, slots=True)
class Step:
    """One statement of a trip.

    Attributes:
        statement: The statement. Where the same object comes again and again, the database's
            dialect compiles it once.
        rows: Its parameters; it runs once for each. Without any, it does not run.
        exact: Whether each run must write exactly one row; `require_taken` counts them.
    """

    statement: Executable
    rows: Sequence[Mapping[str, Any]] = _ONCE
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What a step returned.

    Attributes:
        rows: The rows that it returned.
        count: Number of rows that it wrote.
    """

    rows: list[Cells]
    count: int


@dataclass(frozen=True, slots=True)
class Ending:
    """The rows that a transaction writes last: some for one table, and the one row of another.

    Attributes:
        into: The table that gets new rows.
        rows: The new rows.
        head: The other table, whose key is its first column.
        row: That table's row as it is to be.
    """

    into: Table
    rows: Sequence[Cells]
    head: Table
    row: Cells


class Finish(Protocol):
    """Writes the last rows of a transaction."""

    def __call__(self, connection: Connection, ending: Ending, *, commit: bool) -> None:
        """Writes the rows, each of them or none.

        Args:
            connection: A connection inside a transaction that writes.
            ending: The rows.
            commit: Whether the transaction may be committed with them. The caller then runs
                nothing more in it.

        Raises:
            RowNotAuthenticError: The database did not take a row, and nothing is committed.
        """
        ...


class Trip(Protocol):
    """Runs the steps of a trip in their order, in the transaction of a connection."""

    def __call__(
        self, connection: Connection, steps: Sequence[Step], *, commit: bool = False
    ) -> list[Answer]:
        """Runs the steps, and returns the answer of each.

        If one fails, its error is raised, and none of those after it has run.

        Args:
            connection: A connection inside a transaction.
            steps: The statements.
            commit: Whether the transaction may be committed with them, unless one fails. The
                caller then runs nothing more in it.
        """
        ...


_AT_ONCE: Final = 1_024
"""Most values that one statement looks for (protocol S12)."""


def looking_for(
    statement: Callable[[int], Executable],
    values: Collection[str] | Collection[bytes] | Collection[int],
) -> list[Step]:
    """Returns the steps that look for some values in a column.

    Args:
        statement: Returns the statement that looks for a number of values, the same object each
            time; `one_of` makes its condition.
        values: The values. Steps look for them in their order.
    """
    each, steps = iter(values), []
    while part := list(islice(each, _AT_ONCE)):
        # Few sizes, so that few statements have to be compiled.
        size = 1 << (len(part) - 1).bit_length()
        part += [part[0]] * (size - len(part))
        steps.append(Step(statement(size), [{f"value_{n}": v for n, v in enumerate(part)}]))
    return steps


def one_of(column: ColumnElement[Any], size: int) -> ColumnElement[bool]:
    """Returns the condition that a column has one of the values of a step of `looking_for`."""
    return column.in_([bindparam(f"value_{n}", type_=column.type) for n in range(size)])


def one_by_one(
    connection: Connection, steps: Sequence[Step], *, commit: bool = False
) -> list[Answer]:
    """Runs each step by itself, for a database to which there is no way. The caller commits."""
    del commit
    return [_answer(connection, step) for step in steps]


def finish_one_by_one(connection: Connection, ending: Ending, *, commit: bool) -> None:
    """Writes the last rows of a transaction, and leaves the commit to the caller."""
    del commit
    into, head = ending.into, ending.head
    [key] = head.primary_key
    steps = (
        Step(
            insert(into), [dict(zip(into.columns.keys(), row, strict=True)) for row in ending.rows]
        ),
        Step(
            update(head).where(key == ending.row[0]),
            [dict(zip(head.columns.keys()[1:], ending.row[1:], strict=True))],
        ),
    )
    for step, answer in zip(steps, one_by_one(connection, steps), strict=True):
        require_taken(step, answer)


def rows_of(answers: Iterable[Answer]) -> Iterator[Cells]:
    """Yields the rows of some answers, in their order."""
    return (row for answer in answers for row in answer.rows)


def require_taken(step: Step, answer: Answer) -> None:
    """Refuses a step that wrote another number of rows than it was given (protocol S10).

    Raises:
        RowNotAuthenticError: The database did not take a row.
    """
    if step.exact and answer.count != len(step.rows):
        raise not_taken(step.statement.table.description)  # type: ignore[attr-defined]


def _answer(connection: Connection, step: Step) -> Answer:
    if not step.rows:
        return Answer([], 0)
    done = connection.execute(
        step.statement,
        step.rows[0] if len(step.rows) == 1 else step.rows,
        execution_options={"preserve_rowcount": True},
    )
    rows = [tuple(row) for row in done] if done.returns_rows else []
    return Answer(rows, done.rowcount)
