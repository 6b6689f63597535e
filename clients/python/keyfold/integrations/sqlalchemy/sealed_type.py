"""The type of an encrypted column: messages, and nothing that was not sealed for its row."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import LargeBinary
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import ColumnElement, Null
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator

from keyfold.integrations.columns.cell import Cell
from keyfold.integrations.columns.faults import EncryptedColumnError

_WITH_NULL: Final = (operators.eq, operators.ne, operators.is_, operators.is_not)


class _WithoutRowError(EncryptedColumnError, DontWrapMixin):
    """An error that SQLAlchemy hands on as it is."""


class SealedType(TypeDecorator[Cell]):
    """Binary values that `encrypted` seals. The database sees `LargeBinary`.

    The same value is another message each time, so the only comparison is with NULL. A plain value
    is refused wherever it comes from: only the mapper of a class seals, which knows the row.
    """

    impl = LargeBinary
    cache_ok = True

    class Comparator(TypeDecorator.Comparator[Cell]):
        """Compares with NULL and with nothing else."""

        def operate(self, op: OperatorType, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
            """Makes a comparison with NULL.

            Raises:
                EncryptedColumnError: It is another operation.
            """
            null = len(other) == 1 and (other[0] is None or isinstance(other[0], Null))
            if op in _WITH_NULL and null:
                return super().operate(op, *other, **kwargs)
            raise EncryptedColumnError(
                f"column {self.expr} is encrypted, and the same value is other bytes each time: a "
                "query can only ask whether it is NULL"
            )

        reverse_operate = operate

    comparator_factory = Comparator

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        """Returns the message of a cell that was sealed."""
        if value is None:
            return None
        message = value.message if isinstance(value, Cell) else None
        if message is None:
            raise _WithoutRowError(
                "a value of an encrypted column was to be stored without its row, so nobody can "
                "tell whose key encrypts it; set the attribute of an object and add it to a session"
            )
        return bytes(message)

    def process_result_value(self, value: Any, dialect: Dialect) -> Cell | None:  # noqa: ARG002
        """Returns a cell, which its row's attribute opens."""
        return None if value is None else Cell(bytes(value))
