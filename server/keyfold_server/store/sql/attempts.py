"""Attempts that changed nothing: entries of the log, for which no cluster's row is locked (R5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyfold_server.domain.cluster import no_cluster
from keyfold_server.domain.log import EntryKind, RecordedAttempt
from keyfold_server.store.database.trip import rows_of
from keyfold_server.store.tables import clusters, log, log_head
from keyfold_server.store.tables.clusters import Attempted
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyfold_server.domain.errors import ClusterNotFoundError
    from keyfold_server.domain.log import Attempt
    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.database.trip import Step
    from keyfold_server.store.sql.transactions import Unit
    from keyfold_server.store.tables.log import Stamp
    from keyfold_server.store.tables.log_head import Position


def first(attempts: Sequence[Attempt], dialect: Dialect) -> list[Step]:
    """Returns the steps that a transaction begins with to record attempts."""
    names = sorted({each.cluster for each in attempts if each.cluster is not None})
    return [*clusters.attempting(names), *log.closing(dialect, wake=False)]


def record(
    unit: Unit, attempts: Sequence[Attempt], stamp: Stamp
) -> list[RecordedAttempt | ClusterNotFoundError]:
    """Appends attempts to the log. An attempt at a cluster that does not exist drops out alone.

    Args:
        unit: The transaction, with the answers to `first`.
        attempts: The attempts.
        stamp: For the entries of the log.
    """
    # What settles the transaction in between returns no rows.
    *others, locked = unit.answers
    unmade = {each.cluster for each in attempts if each.new}
    known = dict.fromkeys({None, *unmade}, Attempted(None, 0))
    known.update(clusters.attempted(rows_of(others), stamp.seal).items())
    drafts = [
        Draft(
            EntryKind.ATTEMPT,
            each.event,
            each.cluster,
            known[each.cluster].uid,
            organization=known[each.cluster].organization,
        )
        for each in attempts
        if each.cluster in known
    ]
    made: list[Position] = []
    if drafts:
        made, unit.ending = log.ended(log_head.of(locked.rows, stamp.seal), drafts, stamp)
    places = iter(made)
    return [
        RecordedAttempt(next(places).number, known[each.cluster].decided)
        if each.cluster is None or each.cluster in known
        else no_cluster(each.cluster)
        for each in attempts
    ]
