"""Attempts that changed nothing: entries of the log, for which no cluster's row is locked (R5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keyfold_server.domain.cluster import no_cluster
from keyfold_server.domain.log import EntryKind, RecordedAttempt
from keyfold_server.store.tables import clusters, log
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from keyfold_server.domain.errors import ClusterNotFoundError
    from keyfold_server.domain.log import Attempt
    from keyfold_server.store.tables.log import Stamp

_AT_ONCE: Final = 1_000
"""Most names in one statement (protocol S12)."""


def record(
    connection: Connection, attempts: Sequence[Attempt], stamp: Stamp
) -> list[RecordedAttempt | ClusterNotFoundError]:
    """Appends attempts to the log. An attempt at a cluster that does not exist drops out alone."""
    names = sorted({attempt.cluster for attempt in attempts})
    known: dict[str, clusters.Attempted] = {}
    for first in range(0, len(names), _AT_ONCE):
        some = names[first : first + _AT_ONCE]
        known |= clusters.attempted(connection, stamp.seal, some)
    drafts = [
        Draft(EntryKind.ATTEMPT, each.event, each.cluster, known[each.cluster].uid)
        for each in attempts
        if each.cluster in known
    ]
    made = iter(log.append(connection, drafts, stamp))
    return [
        RecordedAttempt(next(made).number, known[each.cluster].decided)
        if each.cluster in known
        else no_cluster(each.cluster)
        for each in attempts
    ]
