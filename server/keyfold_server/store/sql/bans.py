"""Bans: the entry of the log by which a Revoke needs no row of its cluster (protocol A6).

The entry has the floor of the cluster's last decision. So whoever blesses the rows later begins
above everything that the log knows of the cluster, and pruning carries the ban forward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from keyfold_server.domain.bans import CommittedBan
from keyfold_server.domain.cluster import no_cluster
from keyfold_server.domain.log import EntryKind, Floor
from keyfold_server.store import schema
from keyfold_server.store.tables import clusters, floors, log, log_head, requests, rows
from keyfold_server.store.tables.clusters import StoredCluster
from keyfold_server.store.tables.log import Draft

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from keyfold_server.domain.bans import Ban
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


def record(
    connection: Connection, wanted: Ban, stamp: Stamp, reach: Callable[[str], None]
) -> Banned | None:
    """Appends a ban to the log, or an attempt if the name is banned already.

    Args:
        connection: A connection inside a transaction that writes.
        wanted: The ban.
        stamp: For the entry.
        reach: Called with the name of each failpoint.

    Returns:
        The ban, or None if the cluster's rows are authentic.

    Raises:
        ClusterNotFoundError: Neither the log nor a row nor the replica knows the cluster.
    """
    name, seal = wanted.cluster, stamp.seal
    if stamp.dialect.locks_rows:
        # So that no change is decided on rows that somebody mends just now.
        own = schema.clusters.c
        connection.execute(select(own.uid).where(own.name == name).with_for_update())
    found = clusters.read_named(connection, seal, [name]).get(name)
    if isinstance(found, StoredCluster):
        return None
    if found is None and wanted.seen is None and floors.of(connection, name, seal) is None:
        raise no_cluster(name)
    _record_request(connection, wanted, stamp)
    reach("ban:recorded")
    stamp.dialect.settle(connection, wake=True)
    head = log_head.read(connection, seal, lock=True)
    # Under the lock of the head, because another replica may have banned the name meanwhile.
    known = floors.of(connection, name, seal)
    if known is not None and known[1].banned:
        event = replace(wanted.event, outcome="repeated")
        [newest] = log.add(connection, head, [Draft(EntryKind.ATTEMPT, event, name)], stamp)
        reach("ban:numbered")
        at = log.position(known[0])
        return Banned(CommittedBan(at.number, at.entry_id, repeated=True), known[1], newest)
    floor = replace(_floor(wanted) if known is None else known[1], banned=True)
    draft = Draft(EntryKind.BAN, wanted.event, cluster=name, floor=floor)
    [newest] = log.add(connection, head, [draft], stamp)
    reach("ban:numbered")
    made = CommittedBan(newest.number, newest.entry_id, repeated=False)
    return Banned(made, floor, newest)


def _floor(wanted: Ban) -> Floor:
    """Returns the floor of a cluster of which the log has no authentic decision."""
    seen = wanted.seen
    return Floor(b"", 0, 0, b"") if seen is None else Floor(seen.uid, seen.version, seen.epoch, b"")


def _record_request(connection: Connection, wanted: Ban, stamp: Stamp) -> None:
    """Records the request_id, unless an earlier change of the cluster has recorded it."""
    key = wanted.request
    if key is None or requests.scope(key) in requests.read(connection, [key], stamp.seal):
        return
    known = floors.of(connection, wanted.cluster, stamp.seal)
    version = (_floor(wanted) if known is None else known[1]).version
    cells = requests.recorded(key, version, stamp.now, stamp.seal)
    rows.write(connection, insert(schema.requests), [rows.named(schema.requests, cells)])
