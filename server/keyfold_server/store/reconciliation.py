"""Reconciliation: an operator decides that the store is right as it is (protocol S1).

The decision goes into every cluster's audit chain first, and into the store last. So whatever
interrupts it, no replica goes on without a trace of the reason, and the operator can repeat it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from keyfold_server.domain.changes import AuditEvent, Change
from keyfold_server.domain.errors import RowNotAuthenticError, SetupError
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.store import schema
from keyfold_server.store.tables import counter

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.sql.store import SqlStore

ACTION: Final = "command:cluster:reconcile"
"""Action of the audit event."""

_PAGE: Final = 100
"""Clusters whose chains one transaction extends."""


@dataclass(frozen=True, slots=True)
class NewestChange:
    """The newest change that a store has, for people.

    Attributes:
        number: The change's number, 0 before the first change.
        change_id: The change's random id, empty before the first change.
        made_at: Time of the change in milliseconds of Unix time, or None if it is unknown.
        replica: Name of the replica that made the change, or None if it is unknown.
    """

    number: int
    change_id: bytes
    made_at: int | None
    replica: str | None


@dataclass(slots=True)
class ReconcileResult:
    """The outcome of a reconciliation.

    Attributes:
        clusters: Number of clusters whose audit chains have the decision.
        refused: Errors of the clusters whose rows are not authentic, so that their chains could not
            take the decision.
    """

    clusters: int = 0
    refused: list[RowNotAuthenticError] = field(default_factory=list)


def newest(store: SqlStore) -> NewestChange:
    """Returns the newest change that a store has.

    Raises:
        SetupError: The store is in SQLite, where reconciling has no meaning.
        StoreUnavailableError: The store did not answer.
    """
    database, seal = store.parts
    if database.dialect.one_process:
        raise SetupError(
            "a store in SQLite has one server: restart the server, and it goes on with the store "
            "as it is"
        )

    def work(connection: Connection) -> NewestChange:
        last = counter.newest(connection, seal)
        columns = schema.changes.c
        about = select(columns.created_at, columns.replica).where(columns.number == last.number)
        row = connection.execute(about).first()
        made_at, replica = (None, None) if row is None else tuple(row)
        return NewestChange(last.number, last.change_id, made_at, replica)

    return database.read(work)


def carry_out(store: SqlStore, reason: str, clock: Clock) -> ReconcileResult:
    """Records the decision; replicas that refuse then drop every key and go on.

    Args:
        store: The store, in PostgreSQL.
        reason: The operator's reason, for the audit trail.
        clock: Source of time.

    Raises:
        SetupError: The store is in SQLite.
        StoreUnavailableError: The store could not be written, and holds no decision.
        ConcurrentChangeError: Other changes of a cluster came first every time, and the store holds
            no decision.
    """
    found = newest(store)
    done = ReconcileResult()
    detail = {"change": found.number, "change_id": found.change_id.hex(), "reason": reason}
    text = json.dumps(detail, sort_keys=True, separators=(",", ":"))
    after = ""
    while page := store.clusters(ClusterFilter(), after, _PAGE):
        names = [c.cluster or "" if isinstance(c, RowNotAuthenticError) else c.name for c in page]
        done.refused += [c for c in page if isinstance(c, RowNotAuthenticError)]
        event = AuditEvent(int(clock.wall() * 1000), "local", ACTION, "done", text)
        good = [c.name for c in page if not isinstance(c, RowNotAuthenticError)]
        for result in store.apply([Change(name, None, event) for name in good]):
            if isinstance(result, Exception):
                raise result
        done.clusters += len(good)
        after = names[-1]
    store.reconcile(reason)
    return done
