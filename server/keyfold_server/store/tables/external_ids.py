"""External ids: what was issued for whom, for good (protocol C2).

A decision: who could change one could have Keyfold take a customer's role with an id that somebody
else knows. So a row carries a MAC and is never changed; one that is taken away by hand is issued
anew, and the customer's trust policy then refuses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, select

from keyfold_server.store.schema import Cells, external_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyfold_server.store.seal import Seal

_TABLE: Final = external_ids.name


def read(connection: Connection, owner: str, seal: Seal) -> str | None:
    """Returns what was issued for an owner, or None.

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
    """Keeps an external id for an owner who has none, and returns the one that the owner has.

    Of two that do so at once the database refuses one, which then looks again.

    Raises:
        RowNotAuthenticError: The owner's row is not authentic.
    """
    known = read(connection, owner, seal)
    reach("issue:looked")
    if known is None:
        connection.execute(insert(external_ids).values(sealed(owner, external_id, now, seal)))
        reach("issue:written")
    return external_id if known is None else known


def sealed(owner: str, external_id: str, created_at: int, seal: Seal) -> Cells:
    """Returns an owner's row."""
    return seal.sealed(_TABLE, (owner, external_id, created_at))


def every(connection: Connection, seal: Seal) -> list[Cells]:
    """Reads all rows, by owner.

    Raises:
        RowNotAuthenticError: One is not authentic.
    """
    rows = connection.execute(select(*external_ids.c).order_by(external_ids.c.owner)).all()
    found = [tuple(row) for row in rows]
    for row in found:
        seal.check(_TABLE, row)
    return found
