"""The questions that a query may ask of an encrypted column: whether it is NULL."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import FieldError
from django.db.models.lookups import Exact

from keyfold.integrations.columns.faults import EncryptedColumnError


class EncryptedLookupError(EncryptedColumnError, FieldError):
    """The query asks for more than whether an encrypted column is NULL."""


class ExactlyNull(Exact):
    """`field=None`, which Django turns into `isnull`."""

    def __init__(self, lhs: Any, rhs: Any) -> None:
        if rhs is not None:
            raise refused(lhs.output_field)
        super().__init__(lhs, rhs)


def refused(field: Any) -> EncryptedLookupError:
    """Returns the error about a query on a field."""
    return EncryptedLookupError(
        f"{field} is encrypted, and the same value is other bytes each time: a query can only use "
        "isnull"
    )
