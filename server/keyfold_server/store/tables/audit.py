"""A cluster's audit chain, in which each event's MAC covers the MAC of the event before.

The cluster's own row holds the chain's head and its length, so Keyfold also notices if somebody
cuts off the end. Old rows of the whole cluster, put back together, verify: only an anchor outside
the store could show such a rollback (protocol A3).
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
"""Events that are read at a time."""


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
    """Verifies a cluster's chain from its first event, and returns the number of its events.

    Raises:
        RowNotAuthenticError: Somebody changed, removed or added an event.
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
