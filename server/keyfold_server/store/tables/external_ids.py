"""External ids, which Keyfold issues once for each owner, for good (protocol C2).

Whoever could change an external id could have Keyfold assume a customer's role with an id that
somebody else knows. So a row carries a MAC and never changes. If somebody removes a row by hand,
Keyfold issues a new id, and the customer's trust policy refuses that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, select

from keyfold_server.store.schema import Cells, external_ids
from keyfold_server.store.tables.rows import named, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyfold_server.store.seal import Seal

_TABLE: Final = external_ids.name


def read(connection: Connection, owner: str, seal: Seal) -> str | None:
    """Returns the external id that Keyfold issued for an owner, or None.

    Raises:
        RowNotAuthenticError: The row is not authentic.
    """
    found = connection.execute(select(*external_ids.c).where(external_ids.c.owner == owner)).first()
    if found is None:
        return None
    seal.check(_TABLE, tuple(found))
    return str(found[1])


def issue(
    connection: Connection,
    owner: str,
    external_id: str,
    now: int,
    seal: Seal,
    reach: Callable[[str], None],
) -> str:
    """Keeps an external id for an owner that has no id yet; returns the one that the owner has.

    If two transactions do so at once, the database refuses one, which then runs again and finds
    the other's id.

    Raises:
        RowNotAuthenticError: The owner's row is not authentic.
    """
    known = read(connection, owner, seal)
    reach("issue:looked")
    if known is None:
        row = named(external_ids, sealed(owner, external_id, now, seal))
        write(connection, insert(external_ids), [row])
        reach("issue:written")
    return external_id if known is None else known


def sealed(owner: str, external_id: str, created_at: int, seal: Seal) -> Cells:
    """Returns an owner's row with its MAC."""
    return seal.sealed(_TABLE, (owner, external_id, created_at))


def every(connection: Connection, seal: Seal) -> list[Cells]:
    """Reads all rows, ordered by owner.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    rows = connection.execute(select(*external_ids.c).order_by(external_ids.c.owner)).all()
    found = [tuple(row) for row in rows]
    for row in found:
        seal.check(_TABLE, row)
    return found
