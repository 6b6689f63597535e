"""Moving the values of a table to newer keys, batch by batch, beside writers of the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keyfold
from keyfold.integrations.columns.place import Column
from keyfold.integrations.columns.tenants import Tenants

_OUTAGES = (
    keyfold.CancelledError,
    keyfold.DeadlineError,
    keyfold.ForkedError,
    keyfold.InternalError,
    keyfold.LimitError,
    keyfold.UnauthenticatedError,
    keyfold.UnavailableError,
    keyfold.UnimplementedError,
)
"""What says nothing about a row or its tenant: every other row would fail, too."""


@dataclass(frozen=True, slots=True)
class RowFailure:
    """A value that was not moved, and stays as it was.

    Attributes:
        row: The row's primary key.
        error: Why; its message names column and cluster.
    """

    row: tuple[Any, ...]
    error: keyfold.KeyfoldError


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """What became of one batch of rows, once it is stored.

    Attributes:
        after: The primary key of the batch's last row. Pass it as `after` to go on from there.
        rows: How many rows there were.
        moved: How many values are under a newer key now.
        current: How many were already.
        overtaken: How many somebody else wrote meanwhile, which stay as those wrote them.
        failures: Those that were not moved.
    """

    after: tuple[Any, ...]
    rows: int
    moved: int
    current: int
    overtaken: int
    failures: tuple[RowFailure, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A value as it was read.

    Attributes:
        row: The row's primary key.
        column: The column.
        tenant: The row's tenant.
        message: The value.
    """

    row: tuple[Any, ...]
    column: Column
    tenant: str
    message: bytes


@dataclass(slots=True)
class Moves:
    """What a batch moves.

    Attributes:
        newer: Each value that has a newer message, with that message.
        current: How many are at their newest key.
        failures: Those that do not move.
    """

    newer: list[tuple[Stored, bytes]] = field(default_factory=list)
    current: int = 0
    failures: list[RowFailure] = field(default_factory=list)


def moves(tenants: Tenants, values: Iterable[Stored]) -> Moves:
    """Returns the newer messages of values. Each tenant's are one call for up to 1,000.

    Raises:
        KeyfoldError: No server answers, or it answers nothing about the rows.
    """
    found = Moves()
    for part in _parts(values):
        first = part[0]
        try:
            messages = [value.message for value in part]
            answers = tenants.rekey_many(first.column, first.tenant, messages)
        except keyfold.KeyfoldError as error:
            answers = [error] * len(part)
        for value, answer in zip(part, answers, strict=True):
            if isinstance(answer, _OUTAGES):
                raise answer
            if isinstance(answer, keyfold.KeyfoldError):
                found.failures.append(RowFailure(value.row, answer))
            elif answer == value.message:
                found.current += 1
            else:
                found.newer.append((value, answer))
    return found


def _parts(values: Iterable[Stored]) -> Iterator[Sequence[Stored]]:
    """Yields the values of each tenant and column."""
    parts: dict[tuple[str, Column], list[Stored]] = {}
    for value in values:
        parts.setdefault((value.tenant, value.column), []).append(value)
    yield from parts.values()
