"""Identities: values that Keyfold issues once for each owner, for good (protocol C2).

An external id is one: AWS shows it to a customer's trust policy. Whoever could change an identity
could act as another customer. So a row carries a MAC and never changes, and each issue is an entry
of the log. If somebody removes a row by hand, Keyfold issues a new value, and the customer's trust
policy refuses that one.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, bindparam, insert, select

from keyfold_server.store.database.trip import Step
from keyfold_server.store.schema import Cells, identities
from keyfold_server.store.tables.rows import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.store.seal import Seal

_TABLE: Final = identities.name
_ADD: Final = insert(identities)
_READ: Final = select(*identities.c).where(
    identities.c.kind == bindparam("of_kind"), identities.c.owner == bindparam("of_owner")
)


class IdentityKind(Enum):
    """The kind of an identity."""

    EXTERNAL_ID = "external_id"


def reading(kind: IdentityKind, owner: str) -> Step:
    """Returns the step that reads an owner's row; `of` takes what it returns."""
    return Step(_READ, [{"of_kind": kind.value, "of_owner": owner}])


def of(found: Sequence[Cells], seal: Seal) -> str | None:
    """Returns the value that Keyfold issued for an owner, or None.

    Raises:
        RowNotAuthenticError: The row is not authentic.
    """
    if not found:
        return None
    seal.check(_TABLE, found[0])
    return str(found[0][2])


def adding(kind: IdentityKind, owner: str, value: str, now: int, seal: Seal) -> Step:
    """Returns the step that keeps a value for an owner that has no value yet.

    If two transactions do so at once, the database refuses one, which then runs again and finds
    the other's value.
    """
    return Step(_ADD, [named(identities, sealed(kind.value, owner, value, now, seal))])


def sealed(kind: str, owner: str, value: str, created_at: int, seal: Seal) -> Cells:
    """Returns an owner's row with its MAC."""
    return seal.sealed(_TABLE, (kind, owner, value, created_at))


def every(connection: Connection, seal: Seal) -> list[Cells]:
    """Reads all rows, ordered by kind and owner.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    ordered = select(*identities.c).order_by(identities.c.kind, identities.c.owner)
    found = [tuple(row) for row in connection.execute(ordered).all()]
    for row in found:
        seal.check(_TABLE, row)
    return found
