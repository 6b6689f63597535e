"""The KEKs that were erased: the log has their ids, so that no import brings them back (A4, D5).

An erasure is an entry whose decision names the KEKs that it took away. Pruning carries it forward.
So a look at the log finds every KEK that was ever erased here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, select

from keyfold_server.domain.erasure import kek_ids
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.log import EntryKind
from keyfold_server.store.schema import log as table
from keyfold_server.store.tables import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyfold_server.domain.cluster import Cluster
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.seal import Seal

_KINDS: Final = (EntryKind.ERASURE.value, EntryKind.KEPT.value)

_EVERY: Final = select(*table.c).where(table.c.kind.in_(_KINDS), table.c.decision.is_not(None))
"""Reads every such entry. It scans the log, which only commands do."""


def are_in(row: Cells) -> bool:
    """Returns whether an entry tells of erased KEKs."""
    return row[log.KIND] in _KINDS and row[log.DECISION] is not None


def refuse(connection: Connection, cluster: Cluster, seal: Seal, what: str) -> None:
    """Refuses a cluster that has a KEK which this store erased.

    Args:
        connection: A connection inside a transaction.
        cluster: The cluster.
        seal: Checks the entries.
        what: What would bring the KEK back, for the message.

    Raises:
        SetupError: The cluster has such a KEK.
        RowNotAuthenticError: An entry that tells of erased KEKs is not authentic.
    """
    ids = {kek_id.hex() for kek_id in kek_ids(cluster)}
    for row in map(tuple, connection.execute(_EVERY)):
        seal.check("log", row, row[log.CLUSTER])
        for region, kek_id in _told(row):
            if kek_id in ids:
                raise SetupError(
                    f"{what} holds KEK {kek_id} of region {region}, which this store has erased "
                    f"after DeleteCluster (entry {row[log.NUMBER]} of the log): what was deleted "
                    "never comes back here"
                )


def _told(row: Cells) -> Iterator[tuple[str, str]]:
    """Yields region and id, in hex, of each KEK that an entry tells was erased."""
    for region, told in json.loads(row[log.DECISION])["regions"].items():
        for kek_id, _ in told.get("removed", ()):
            yield region, kek_id
