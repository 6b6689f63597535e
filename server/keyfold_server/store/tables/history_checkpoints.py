"""The checkpoint in a cluster's history: the last superseded wrap that pruning removed.

The cluster's own row changes only with a decision (protocol S10), and pruning decides nothing. So
the checkpoint has a sealed row of its own, and the cluster's row goes on naming the newest end of
the chain. Whoever removes the checkpoint, or puts an older one in its place, leaves a gap between
it and the first row that is left, which every reader of the history notices (protocol A2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, select

from keyfold_server.store.schema import history_checkpoints as table

if TYPE_CHECKING:
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last wrap that pruning removed from a cluster's history.

    Attributes:
        number: The number of that wrap's row, 0 if none was removed.
        mac: The MAC of that row, empty if none was removed.
    """

    number: int = 0
    mac: bytes = b""


NOTHING_PRUNED: Final = Checkpoint()
"""The checkpoint of a history that is whole."""


def sealed(uid: bytes, checkpoint: Checkpoint, seal: Seal) -> Cells:
    """Returns the row of a cluster's checkpoint."""
    return seal.sealed(table.name, (uid, checkpoint.number, checkpoint.mac))


def read(connection: Connection, uid: bytes, name: str, seal: Seal) -> Checkpoint:
    """Reads the checkpoint of a cluster.

    Raises:
        RowNotAuthenticError: Somebody else wrote the row.
    """
    row = connection.execute(select(*table.c).where(table.c.cluster_uid == uid)).first()
    return NOTHING_PRUNED if row is None else of(tuple(row), name, seal)


def of(row: Cells, name: str, seal: Seal) -> Checkpoint:
    """Returns the checkpoint in a row.

    Raises:
        RowNotAuthenticError: Somebody else wrote the row.
    """
    seal.check(table.name, row, name)
    _, number, mac, _ = row
    return Checkpoint(number, mac)
