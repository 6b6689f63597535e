"""Identities: values that Keyfold issues once for each owner, for good (protocol C2).

An external id is one: AWS shows it to a customer's trust policy. Whoever could change an identity
could act as another customer. So a row carries a MAC and never changes, and each issue is an entry
of the log. If somebody removes a row by hand, Keyfold issues a new value, and the customer's trust
policy refuses that one.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, select

from keyfold_server.store.schema import Cells, identities
from keyfold_server.store.tables.rows import named, write

if TYPE_CHECKING:
    from keyfold_server.store.seal import Seal

_TABLE: Final = identities.name


class IdentityKind(Enum):
    """The kind of an identity."""

    EXTERNAL_ID = "external_id"


def read(connection: Connection, kind: IdentityKind, owner: str, seal: Seal) -> str | None:
    """Returns the value that Keyfold issued for an owner, or None.

    Raises:
        RowNotAuthenticError: The row is not authentic.
    """
    chosen = identities.c.kind == kind.value, identities.c.owner == owner
    found = connection.execute(select(*identities.c).where(*chosen)).first()
    if found is None:
        return None
    seal.check(_TABLE, tuple(found))
    return str(found[2])


def add(
    connection: Connection, kind: IdentityKind, owner: str, value: str, now: int, seal: Seal
) -> None:
    """Keeps a value for an owner that has no value yet.

    If two transactions do so at once, the database refuses one, which then runs again and finds
    the other's value.
    """
    row = named(identities, sealed(kind.value, owner, value, now, seal))
    write(connection, insert(identities), [row])


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
