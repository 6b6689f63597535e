"""An operator's decisions that the store is right as it is, though replicas knew more.

Each decision has a random id (protocol S1). A replica that refuses because the store lacks what the
replica knew goes on only after a decision that it has not seen before. Decisions that were rolled
back with the store do not count.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, func, insert, select

from keyfold_server.store.schema import reconciliations
from keyfold_server.store.tables.rows import named, write

if TYPE_CHECKING:
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.counter import Position

_ID_SIZE: Final = 16


def add(connection: Connection, newest: Position, reason: str, now: int, seal: Seal) -> None:
    """Records a decision.

    Args:
        connection: A connection inside a transaction that writes.
        newest: Position of the newest change that the store has.
        reason: The operator's reason, for people.
        now: Milliseconds of Unix time.
        seal: Seals the row.
    """
    last = connection.execute(select(func.max(reconciliations.c.number))).scalar()
    row = seal.sealed(
        "reconciliations",
        (
            (last or 0) + 1,
            secrets.token_bytes(_ID_SIZE),
            newest.number,
            newest.change_id,
            reason,
            now,
        ),
    )
    write(connection, insert(reconciliations), [named(reconciliations, row)])


def read(connection: Connection, seal: Seal) -> frozenset[bytes]:
    """Returns the ids of all decisions.

    Raises:
        RowNotAuthenticError: A row is not authentic.
    """
    rows = connection.execute(select(*reconciliations.c)).all()
    for row in rows:
        seal.check("reconciliations", tuple(row))
    return frozenset(row[1] for row in rows)
