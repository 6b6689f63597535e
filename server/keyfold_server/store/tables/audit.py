"""The audit chain of a cluster: each event's MAC covers the one before it.

The head and the count stand in the cluster's row, so that cutting the end off is noticed, too.
Whole old rows put back together verify: that is a rollback, which only an anchor outside the
store can show (protocol A3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, select

from keyfold_server.store.schema import Cells, audit_events
from keyfold_server.store.seal import not_authentic

if TYPE_CHECKING:
    from keyfold_server.domain.changes import AuditEvent
    from keyfold_server.store.seal import Seal
    from keyfold_server.store.tables.clusters import StoredCluster

_PAGE: Final = 1_000


def appended(stored: StoredCluster, event: AuditEvent, seal: Seal) -> Cells:
    """Returns the row of a cluster's next event; its MAC is the chain's new head."""
    return seal.sealed(
        "audit_events",
        (
            stored.cluster.uid,
            stored.events + 1,
            event.time,
            event.caller,
            event.action,
            event.outcome,
            event.detail,
            event.proof,
            event.address,
            event.on_behalf_of,
            stored.head,
        ),
    )


def verify(connection: Connection, stored: StoredCluster, seal: Seal) -> int:
    """Walks a cluster's chain from its first event, and returns how many there are.

    Raises:
        RowNotAuthenticError: An event was changed, is missing, or was added.
    """
    name, count, head = stored.cluster.name, 0, b""
    page = (
        select(*audit_events.c)
        .where(audit_events.c.cluster_uid == stored.cluster.uid)
        .order_by(audit_events.c.number)
        .limit(_PAGE)
    )
    while True:
        rows = connection.execute(page.where(audit_events.c.number > count)).all()
        for row in map(tuple, rows):
            seal.check("audit_events", row, name)
            number, (before, mac) = row[1], row[-2:]
            if number != count + 1 or before != head:
                raise not_authentic("audit_events", name)
            count, head = number, mac
        if len(rows) < _PAGE:
            break
    if (count, head) != (stored.events, stored.head):
        raise not_authentic("audit_events", name)
    return count
