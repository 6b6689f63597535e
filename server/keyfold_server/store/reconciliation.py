"""Reconciling: an operator's word that the store is right as it is, in every audit chain (S1).

The chains first, the decision last: whatever interrupts it, no replica goes on without a trace of
why, and it can be carried out again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from keyfold_server.domain.changes import AuditEvent, Change
from keyfold_server.domain.errors import RowNotAuthenticError, SetupError
from keyfold_server.domain.ports import ClusterFilter
from keyfold_server.store.schema import changes as changes_table
from keyfold_server.store.tables import changes

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.sql.store import SqlStore

ACTION: Final = "command:cluster:reconcile"
"""What the audit event is called."""

_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class NewestChange:
    """The newest change that a store has.

    Attributes:
        number: Its number, 0 where there is none.
        change_id: Its random id.
        made_at: Milliseconds of Unix time, or None.
        replica: Who made it, or None.
    """

    number: int
    change_id: bytes
    made_at: int | None
    replica: str | None


@dataclass(slots=True)
class ReconcileResult:
    """What was done.

    Attributes:
        clusters: In how many clusters' chains it stands.
        refused: Clusters with rows that are not authentic: they have no chain to write to.
    """

    clusters: int = 0
    refused: list[RowNotAuthenticError] = field(default_factory=list)


def newest(store: SqlStore) -> NewestChange:
    """Returns the newest change that a store has.

    Raises:
        SetupError: The store is a file, which only its one server could have rolled back.
        StoreUnavailableError: The store did not answer.
    """
    database, seal = store.parts
    if database.dialect.one_process:
        raise SetupError(
            "a store in SQLite has one server: restart that, and it goes on with the store as it is"
        )

    def work(connection: Connection) -> NewestChange:
        last = changes.newest(connection, seal)
        about = select(changes_table.c.created_at, changes_table.c.replica)
        row = connection.execute(about.where(changes_table.c.number == last.number)).first()
        made_at, replica = (None, None) if row is None else tuple(row)
        return NewestChange(last.number, last.change_id, made_at, replica)

    return database.read(work)


def carry_out(store: SqlStore, reason: str, clock: Clock) -> ReconcileResult:
    """Records the decision; replicas that refuse then drop everything and go on.

    Args:
        store: The store, in PostgreSQL.
        reason: Why, for the audit trail.
        clock: Time.

    Raises:
        SetupError: The store is a file.
        StoreUnavailableError: The store could not be written; nothing was decided.
        ConcurrentChangeError: Others changed a cluster again and again; nothing was decided.
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
