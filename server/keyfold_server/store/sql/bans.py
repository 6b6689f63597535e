"""Bans: the entry of the log by which a Revoke needs no row of its cluster (protocol A6).

The entry has the floor of the cluster's last decision. So whoever blesses the rows later begins
above everything that the log knows of the cluster, and pruning carries the ban forward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import insert

from keyfold_server.domain.bans import CommittedBan
from keyfold_server.domain.cluster import no_cluster
from keyfold_server.domain.log import EntryKind, Floor
from keyfold_server.store import schema
from keyfold_server.store.database.trip import Step, require_taken, rows_of
from keyfold_server.store.tables import clusters, floors, log, log_head, requests, rows
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from keyfold_server.domain.bans import Ban
    from keyfold_server.store.database.dialect import Dialect
    from keyfold_server.store.database.trip import Answer
    from keyfold_server.store.schema import Cells
    from keyfold_server.store.sql.transactions import Unit
    from keyfold_server.store.tables.log import Stamp
    from keyfold_server.store.tables.log_head import Position


@dataclass(frozen=True, slots=True)
class Banned:
    """A ban, as a transaction has written or found it.

    Attributes:
        ban: The ban.
        floor: The floor in its entry.
        newest: The position of the entry that the transaction has written.
    """

    ban: CommittedBan
    floor: Floor
    newest: Position


def first(wanted: Ban, dialect: Dialect) -> list[Step]:
    """Returns the steps that a transaction begins with to record a ban."""
    names = [wanted.cluster]
    # The lock keeps every change from being decided on rows that somebody mends just now.
    return [*(clusters.locking(names) if dialect.locks_rows else []), *clusters.reading(names)]


def record(unit: Unit, wanted: Ban, stamp: Stamp, reach: Callable[[str], None]) -> Banned | None:
    """Appends a ban to the log, or an attempt if the name is banned already.

    Args:
        unit: The transaction, with the answers to `first`.
        wanted: The ban.
        stamp: For the entry.
        reach: Called with the name of each failpoint.

    Returns:
        The ban, or None if the cluster's rows are authentic.

    Raises:
        ClusterNotFoundError: Neither the log nor a row nor the replica knows the cluster, or it is
            erased.
    """
    name, seal, connection = wanted.cluster, stamp.seal, unit.connection
    found = clusters.of(unit.answers[-1].rows, seal).get(name)
    if isinstance(found, StoredCluster):
        return None
    known = floors.of(connection, name, seal)
    if found is None and wanted.seen is None and known is None:
        raise no_cluster(name)
    if known is not None and known[1].erased:
        # No replica serves any row of the name, whoever put it there: the log has its erasure.
        raise no_cluster(name)
    locked = _record_request(connection, wanted, known, stamp)
    reach("ban:recorded")
    # Under the lock of the head, because another replica may have banned the name meanwhile, or
    # erased the cluster.
    known = floors.of(connection, name, seal)
    if known is not None and known[1].erased:
        raise no_cluster(name)
    head = log_head.of(locked.rows, seal)
    organization = _organization(wanted, known)
    if known is not None and known[1].banned:
        event = replace(wanted.event, outcome="repeated")
        repeated = Draft(EntryKind.ATTEMPT, event, name, organization=organization)
        [newest], unit.ending = log.ended(head, [repeated], stamp)
        reach("ban:numbered")
        at = log.position(known[0])
        return Banned(CommittedBan(at.number, at.entry_id, repeated=True), known[1], newest)
    floor = replace(_floor(wanted) if known is None else known[1], banned=True)
    draft = Draft(EntryKind.BAN, wanted.event, cluster=name, floor=floor, organization=organization)
    [newest], unit.ending = log.ended(head, [draft], stamp)
    reach("ban:numbered")
    made = CommittedBan(newest.number, newest.entry_id, repeated=False)
    return Banned(made, floor, newest)


def _organization(wanted: Ban, known: tuple[Cells, Floor] | None) -> str | None:
    """Returns the cluster's organization as the log has it, or else as the replica saw it last."""
    if known is not None:
        found: str | None = known[0][log.ORGANIZATION]
        return found
    return None if wanted.seen is None else wanted.seen.organization


def _floor(wanted: Ban) -> Floor:
    """Returns the floor of a cluster of which the log has no authentic decision."""
    seen = wanted.seen
    return Floor(b"", 0, 0, b"") if seen is None else Floor(seen.uid, seen.version, seen.epoch, b"")


def _record_request(
    connection: Connection, wanted: Ban, known: tuple[Cells, Floor] | None, stamp: Stamp
) -> Answer:
    """Records the request_id, unless an earlier change has recorded it, and locks the log's head.

    Returns:
        The answer that has the head's row.
    """
    key, trip = wanted.request, stamp.dialect.trip
    fresh: list[Step] = []
    if key is not None:
        read = trip(connection, requests.reading([key]))
        if not requests.of(rows_of(read), stamp.seal):
            version = (_floor(wanted) if known is None else known[1]).version
            cells = requests.recorded(key, version, stamp.now, stamp.seal)
            table = schema.requests
            fresh = [Step(insert(table), [rows.named(table, cells)])]
    answers = trip(connection, [*fresh, *log.closing(stamp.dialect, wake=True)])
    for step, answer in zip(fresh, answers, strict=False):
        require_taken(step, answer)
    return answers[-1]
