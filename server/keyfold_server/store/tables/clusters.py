"""A cluster's rows, written and read; nobody uses a row before its MAC is verified.

The cluster's own row carries a digest over the MACs of its other rows in a fixed order. A row that
somebody deleted, added or put back from an earlier time then does not match the digest, although
its own MAC may be valid. The log vouches for the own row in turn, since it has the MAC of that row
as the last decision left it (`floors`). Superseded wraps grow without end, so they are a chain of
their own (`wrap_history`), and reading a cluster does not read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Select,
    null,
    select,
    union_all,
)

from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.erasure import Tombstone
from keyfold_server.domain.errors import ClusterBannedError, RowNotAuthenticError, Unusable
from keyfold_server.domain.log import Floor
from keyfold_server.store import seal as seals
from keyfold_server.store.database.trip import looking_for, one_of
from keyfold_server.store.schema import Cells, clusters, generations, regions, wraps
from keyfold_server.store.tables import cluster_rows, floors, log
from keyfold_server.store.tables.cluster_rows import CHILDREN, Children

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement

    from keyfold_server.store.database.trip import Step
    from keyfold_server.store.seal import Seal

_REGION: Final = len(clusters.columns)
_GENERATION: Final = _REGION + len(regions.columns)
_WRAP: Final = _GENERATION + len(generations.columns)
_NEWEST: Final = _WRAP + len(wraps.columns)

# One statement, so that the rows are of one moment even in a database whose transactions do not
# read from one snapshot. With two statements the digest could fail without anybody's fault.
AGGREGATE: Final = (
    select(*clusters.c, *regions.c, *generations.c, *wraps.c, *floors.newest.c)
    .outerjoin(regions, regions.c.cluster_uid == clusters.c.uid)
    .outerjoin(
        generations,
        (generations.c.cluster_uid == regions.c.cluster_uid)
        & (generations.c.region == regions.c.name),
    )
    .outerjoin(wraps, wraps.c.kek_id == generations.c.kek_id)
    .outerjoin(floors.newest, floors.on_newest)
)
"""Reads clusters with all that vouches for them; `of` takes the rows."""


@dataclass(frozen=True, slots=True)
class StoredCluster:
    """A cluster, and the parts of its rows that the domain does not know.

    Attributes:
        cluster: The cluster.
        children: The rows below the cluster's own row, each with its MAC.
        own: The cluster's own row, its MAC last; empty until it is sealed, and of a cluster that
            is erased.
        history_head: MAC of the last wrap in the cluster's history, empty before the first.
        history_count: Number of that wrap, counted from the first one that the history ever had.
        decided: Number of the newest decision about the cluster in the log, 0 before the first.
    """

    cluster: Cluster
    children: Children = field(repr=False)
    own: Cells = field(default=(), repr=False)
    history_head: bytes = b""
    history_count: int = 0
    decided: int = 0

    @property
    def floor(self) -> Floor:
        """The floor that the cluster's own row is, or its tombstone if it is erased."""
        c = self.cluster
        if not c.regions:
            return Floor(c.uid, c.version, c.epoch, b"", erased=True)
        return Floor(c.uid, c.version, c.epoch, self.own[-1])


@dataclass(slots=True)
class _Rows:
    """The rows of a cluster as they were read, before any is verified.

    Attributes:
        own: The cluster's own row.
        children: The rows below it.
        newest: The newest entry of the log with a floor for the cluster, or None.
    """

    own: Cells
    children: Children
    newest: Cells | None = None


@dataclass(frozen=True, slots=True)
class Attempted:
    """What an attempt at a cluster needs to know of it.

    Attributes:
        uid: The cluster's uid, or None if the cluster's own row is not authentic.
        decided: Number of the cluster's newest decision.
        organization: The cluster's organization, or None if it has none, or if the row is not
            authentic.
    """

    uid: bytes | None
    decided: int
    organization: str | None = None


def read(
    connection: Connection,
    seal: Seal,
    where: ColumnElement[bool],
    bans: Select[Any] | None = None,
) -> dict[str, StoredCluster | Unusable]:
    """Reads the clusters whose own rows meet a condition, as `of` returns them, ordered by name.

    The order is the database's, so that the next page begins where this one ends.

    Args:
        connection: A connection inside a transaction.
        seal: Checks the rows.
        where: The condition.
        bans: Reads bans of names that have no row, or None.
    """
    statement: Select[Any] = AGGREGATE.where(where).order_by(clusters.c.name)
    found = of([tuple(row) for row in connection.execute(statement)], seal)
    banned = [] if bans is None else [tuple(row) for row in connection.execute(bans)]
    if not banned:
        return found
    found |= {entry[log.CLUSTER]: _ban(entry[log.CLUSTER], entry, seal) for entry in banned}
    # Every database compares names by their bytes, as this does. Somebody who edited a row may have
    # put something else in the place of a name, which comes last.
    return dict(sorted(found.items(), key=lambda each: str(each[0])))


def reading(names: Sequence[str]) -> list[Step]:
    """Returns the steps that read the clusters of some names; `of` takes the rows.

    A name without a row may be banned all the same, or have a tombstone (`tombstones` takes the
    rows). One statement reads all of it, so that this costs no further round trip, and a name that
    never was takes as long as one that the caller may not see.
    """
    return looking_for(_reading, names)


@cache
def _reading(count: int) -> CompoundSelect[Any]:
    nothing = [null() for _ in range(_NEWEST)]
    return union_all(
        AGGREGATE.where(one_of(clusters.c.name, count)),
        *(ends.with_only_columns(*nothing, *floors.newest.c) for ends in floors.ends_of(count)),
    )


def locking(names: Sequence[str]) -> list[Step]:
    """Returns the steps that lock the own rows of some clusters, in their order, and read uids.

    The lock is a statement of its own, so that the next one sees what others wrote while this one
    waited.
    """
    return looking_for(_locking, sorted(names))


@cache
def _locking(count: int) -> Select[Any]:
    own = select(clusters.c.uid).where(one_of(clusters.c.name, count))
    return own.order_by(clusters.c.name).with_for_update()


def of(found: Iterable[Cells], seal: Seal) -> dict[str, StoredCluster | Unusable]:
    """Returns the clusters in the rows that `reading` returned, by name, in the rows' order.

    A cluster whose rows are not authentic, or are not those of its newest decision, does not spoil
    the others: its error stands in its place, for the caller to raise. So does that of a banned
    cluster. An erased cluster is left out, as one that never was.
    """
    by_uid: dict[object, _Rows] = {}
    bans: dict[str, Cells] = {}
    for cells in found:
        own = cells[:_REGION]
        if own[0] is None:
            entry = cells[_NEWEST:]
            if not _is_tombstone(entry, seal):
                bans[entry[log.CLUSTER]] = entry
            continue
        rows = by_uid.setdefault(own[0], _Rows(own, {t: {} for t in CHILDREN}))
        children = rows.children
        region, generation = cells[_REGION:_GENERATION], cells[_GENERATION:_WRAP]
        wrap, newest = cells[_WRAP:_NEWEST], cells[_NEWEST:]
        if region[0] is not None:
            children[regions][region[:2]] = region
        if generation[0] is not None:
            children[generations][generation[:1]] = generation
        if wrap[0] is not None:
            children[wraps][wrap[:1]] = wrap
        if newest[0] is not None:
            rows.newest = newest
    verified = {rows.own[1]: _verified(rows, seal) for rows in by_uid.values()}
    return verified | {name: _ban(name, entry, seal) for name, entry in bans.items()}


def tombstones(found: Iterable[Cells], seal: Seal) -> dict[str, Tombstone]:
    """Returns the tombstones in the rows that `reading` returned, by name.

    There may be rows of the name all the same, which somebody put back: they serve nobody.
    """
    entries = (cells[_NEWEST:] for cells in found if cells[0] is None)
    stones = (log.tombstone(entry) for entry in entries if _is_tombstone(entry, seal))
    return {stone.cluster: stone for stone in stones if stone is not None}


def _is_tombstone(entry: Cells, seal: Seal) -> bool:
    """Returns whether an end is a tombstone that the service key sealed."""
    try:
        seal.check("log", entry)
    except RowNotAuthenticError:
        return False
    return log.tombstone(entry) is not None


def _ban(name: str, entry: Cells, seal: Seal) -> Unusable:
    try:
        floors.check_ban(name, entry, seal)
    except (ClusterBannedError, RowNotAuthenticError) as error:
        return error
    return seals.not_authentic("log", name)


def named(connection: Connection, seal: Seal, name: str) -> StoredCluster | None:
    """Reads the cluster of a name, or None if it does not exist.

    Raises:
        RowNotAuthenticError: A row of the cluster is not authentic.
        ClusterBannedError: The cluster's name is banned.
    """
    [step] = reading([name])
    rows = connection.execute(step.statement, step.rows[0])
    return the_one(of(map(tuple, rows), seal))


def the_one(found: Mapping[str, StoredCluster | Unusable]) -> StoredCluster | None:
    """Returns the only cluster that was read, or None if no cluster was.

    Raises:
        RowNotAuthenticError: A row of the cluster is not authentic.
        ClusterBannedError: The cluster's name is banned.
    """
    return next(map(authentic, found.values()), None)


def authentic(stored: StoredCluster | Unusable) -> StoredCluster:
    """Returns a cluster that `read` found, or raises the error in its place.

    Raises:
        RowNotAuthenticError: A row of the cluster is not authentic.
        ClusterBannedError: The cluster's name is banned.
    """
    if isinstance(stored, StoredCluster):
        return stored
    raise stored


def owner_of(connection: Connection, seal: Seal, kek_id: bytes) -> str | None:
    """Returns the name of the cluster that a KEK belongs to, or None.

    Raises:
        RowNotAuthenticError: The cluster's own row, or the KEK's row, is not authentic.
    """
    statement = (
        select(*clusters.c, *generations.c)
        .join(generations, generations.c.cluster_uid == clusters.c.uid)
        .where(generations.c.kek_id == kek_id)
    )
    row = connection.execute(statement).first()
    if row is None:
        return None
    own, generation = tuple(row)[:_REGION], tuple(row)[_REGION:]
    seal.check("clusters", own, own[1] if isinstance(own[1], str) else None)
    seal.check("generations", generation, own[1])
    return str(own[1])


def attempting(names: Sequence[str]) -> list[Step]:
    """Returns the steps that read what the log says of some clusters; `attempted` takes the rows.

    They read no rows below the clusters' own rows.
    """
    return looking_for(_attempting, names)


@cache
def _attempting(count: int) -> Select[Any]:
    return select(*clusters.c, floors.decided).where(one_of(clusters.c.name, count))


def attempted(found: Iterable[Cells], seal: Seal) -> dict[str, Attempted]:
    """Returns, by name, what the log says of clusters at which somebody attempted something."""
    known = {}
    for *own, decided in found:
        try:
            seal.check("clusters", tuple(own))
        except RowNotAuthenticError:
            # Somebody else wrote the row, so its uid says nothing. The attempt counts all the same.
            known[own[1]] = Attempted(None, decided or 0)
        else:
            known[own[1]] = Attempted(own[0], decided or 0, own[2])
    return known


def _verified(rows: _Rows, seal: Seal) -> StoredCluster | Unusable:
    own = rows.own
    name = own[1] if isinstance(own[1], str) else None
    try:
        if name is not None:
            floors.check_ban(name, rows.newest, seal)
        seal.check("clusters", own, name)
        for table, below in rows.children.items():
            for row in below.values():
                seal.check(table.name, row, name)
        if own[7] != cluster_rows.digest(rows.children) or own[10] != seal.service_key_id:
            return seals.not_authentic("clusters", name)
        decided = floors.hold(own[1], Floor(own[0], own[4], own[3], own[-1]), rows.newest, seal)
    except (ClusterBannedError, RowNotAuthenticError) as error:
        return error
    return StoredCluster(
        cluster_rows.decoded(own, rows.children),
        rows.children,
        own,
        history_head=own[8],
        history_count=own[9],
        decided=decided,
    )


def sealed(stored: StoredCluster, seal: Seal) -> StoredCluster:
    """Returns a cluster with its own row, which vouches for all rows of the cluster."""
    c = stored.cluster
    own = seal.sealed(
        "clusters",
        (
            c.uid,
            c.name,
            c.organization,
            c.epoch,
            c.version,
            c.created_at,
            c.updated_at,
            cluster_rows.digest(stored.children),
            stored.history_head,
            stored.history_count,
            seal.service_key_id,
            "\n".join(c.declared) or None,
            c.first_use,
        ),
    )
    return replace(stored, own=own)
