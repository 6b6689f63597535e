"""The row and column that a value is bound to, as pairs of its message's context."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from keyfold.integrations.columns.faults import EncryptedColumnError

_UNNUMBERED = {"row": "unnumbered"}
"""Of values that were sealed for rows which the database had not numbered yet."""


@dataclass(frozen=True, slots=True)
class Column:
    """An encrypted column.

    Attributes:
        table: The name of its table.
        name: Its own.
        numbered_late: Whether the database may number a row only after its values are sealed.
    """

    table: str
    name: str
    numbered_late: bool = False

    def __str__(self) -> str:
        return f"{self.table}.{self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """A column of one row.

    Attributes:
        column: The column.
        tenant: The tenant that the row belongs to.
        row: Names and values of what tells the row from others; empty: not known yet.
    """

    column: Column
    tenant: str
    row: tuple[tuple[str, str], ...]

    @property
    def pairs(self) -> dict[str, str]:
        """The context of a value that is sealed here, and that one which is opened must have."""
        row = {f"row.{name}": value for name, value in self.row}
        return {**self._column_pairs, **(row or _UNNUMBERED)}

    @property
    def earlier_pairs(self) -> dict[str, str] | None:
        """What a value may have instead, which was sealed before the row had a number."""
        if not self.column.numbered_late or not self.row:
            return None
        return {**self._column_pairs, **_UNNUMBERED}

    @property
    def _column_pairs(self) -> dict[str, str]:
        return {"tenant": self.tenant, "column": self.column.name}


def text_of(value: object, what: str) -> str:
    """Returns a tenant's or a row's name as text that is the same before and after it was stored.

    Args:
        value: The value.
        what: Its column, for the error's message.

    Raises:
        EncryptedColumnError: Its type has several texts for one value, or none.
    """
    if isinstance(value, bool) or not isinstance(value, int | str | uuid.UUID):
        raise EncryptedColumnError(
            f"{what} is {type(value).__name__}, and encrypted columns can be bound to int, str and "
            "UUID; bind them to another column with `row`"
        )
    return str(value)
