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

from sqlalchemy import Connection, Select, select

from keyfold_server.domain.cluster import Cluster, Generation, Region, Wrap
from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.log import Floor
from keyfold_server.store import seal as seals
from keyfold_server.store.database.trip import looking_for, one_of
from keyfold_server.store.schema import Cells, clusters, generations, regions, wraps
from keyfold_server.store.tables import floors, options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Table

    from keyfold_server.store.database.trip import Step
    from keyfold_server.store.seal import Seal

CHILDREN: Final = (regions, generations, wraps)
"""Tables of the rows below a cluster's own row, parents first."""

Children = dict["Table", dict[Cells, Cells]]
"""The rows below a cluster's own row, by table and primary key."""

_REGION: Final = len(clusters.columns)
_GENERATION: Final = _REGION + len(regions.columns)
_WRAP: Final = _GENERATION + len(generations.columns)
_NEWEST: Final = _WRAP + len(wraps.columns)

# One statement, so that the rows are of one moment even in a database whose transactions do not
# read from one snapshot. With two statements the digest could fail without anybody's fault.
_AGGREGATE: Final = (
    select(*clusters.c, *regions.c, *generations.c, *wraps.c, *floors.newest.c)
    .outerjoin(regions, regions.c.cluster_uid == clusters.c.uid)
    .outerjoin(
        generations,
        (generations.c.cluster_uid == regions.c.cluster_uid)
        & (generations.c.region == regions.c.name),
    )
    .outerjoin(wraps, wraps.c.kek_id == generations.c.kek_id)
    .outerjoin(floors.newest, floors.on_newest)
    .order_by(clusters.c.name)
)


@dataclass(frozen=True, slots=True)
class StoredCluster:
    """A cluster, and the parts of its rows that the domain does not know.

    Attributes:
        cluster: The cluster.
        children: The rows below the cluster's own row, each with its MAC.
        own: The cluster's own row, its MAC last; empty until it is sealed.
        history_head: MAC of the last wrap in the cluster's history, empty before the first.
        history_count: Number of wraps in the cluster's history.
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
        """The floor that the cluster's own row is."""
        return Floor(self.cluster.uid, self.cluster.version, self.cluster.epoch, self.own[-1])


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
    """

    uid: bytes | None
    decided: int


def read(
    connection: Connection, seal: Seal, where: ColumnElement[bool]
) -> dict[str, StoredCluster | RowNotAuthenticError]:
    """Reads the clusters whose own rows meet a condition, as `of` returns them."""
    statement: Select[Any] = _AGGREGATE.where(where)
    return of([tuple(row) for row in connection.execute(statement)], seal)


def reading(names: Sequence[str]) -> list[Step]:
    """Returns the steps that read the clusters of some names; `of` takes the rows."""
    return looking_for(_reading, names)


@cache
def _reading(count: int) -> Select[Any]:
    return _AGGREGATE.where(one_of(clusters.c.name, count))


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


def of(found: Iterable[Cells], seal: Seal) -> dict[str, StoredCluster | RowNotAuthenticError]:
    """Returns the clusters in the rows that `reading` returned, by name, in the rows' order.

    The order is the database's, so that the next page begins where this one ends. A cluster whose
    rows are not authentic, or are not those of its newest decision, does not spoil the others: its
    error stands in its place, for the caller to raise.
    """
    by_uid: dict[object, _Rows] = {}
    for cells in found:
        own = cells[:_REGION]
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
    return {rows.own[1]: _verified(rows, seal) for rows in by_uid.values()}


def named(connection: Connection, seal: Seal, name: str) -> StoredCluster | None:
    """Reads the cluster of a name, or None if it does not exist.

    Raises:
        RowNotAuthenticError: A row of the cluster is not authentic.
    """
    return the_one(read(connection, seal, clusters.c.name == name))


def the_one(found: Mapping[str, StoredCluster | RowNotAuthenticError]) -> StoredCluster | None:
    """Returns the only cluster that was read, or None if there is none.

    Raises:
        RowNotAuthenticError: A row of the cluster is not authentic.
    """
    return next(map(authentic, found.values()), None)


def authentic(stored: StoredCluster | RowNotAuthenticError) -> StoredCluster:
    """Returns a cluster that `read` found, or raises the error in its place.

    Raises:
        RowNotAuthenticError: A row of the cluster is not authentic.
    """
    if isinstance(stored, RowNotAuthenticError):
        raise stored
    return stored


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
            known[own[1]] = Attempted(own[0], decided or 0)
    return known


def _verified(rows: _Rows, seal: Seal) -> StoredCluster | RowNotAuthenticError:
    own = rows.own
    name = own[1] if isinstance(own[1], str) else None
    try:
        seal.check("clusters", own, name)
        for table, below in rows.children.items():
            for row in below.values():
                seal.check(table.name, row, name)
        if own[7] != _digest(rows.children) or own[10] != seal.service_key_id:
            return seals.not_authentic("clusters", name)
        stored = StoredCluster(
            _cluster(own, rows.children),
            rows.children,
            own,
            history_head=own[8],
            history_count=own[9],
        )
        decided = floors.hold(own[1], stored.floor, rows.newest, seal)
    except RowNotAuthenticError as error:
        return error
    return replace(stored, decided=decided)


def _digest(children: Children) -> bytes:
    by_order = {
        regions: lambda row: row[1],
        # Within a cluster, a generation's place is given by its region and number.
        generations: lambda row: (row[2], row[3]),
        wraps: lambda row: row[0],
    }
    return seals.digest(
        row[-1]
        for table in CHILDREN
        for row in sorted(children[table].values(), key=by_order[table])
    )


def encoded(cluster: Cluster, seal: Seal) -> Children:
    """Returns the rows below a cluster's own row."""
    rows: Children = {table: {} for table in CHILDREN}
    for region in cluster.regions:
        row = seal.sealed("regions", _region_cells(cluster.uid, region))
        rows[regions][row[:2]] = row
        for generation in region.generations:
            made = (
                generation.kek_id,
                cluster.uid,
                region.name,
                generation.number,
                generation.created_at,
                generation.retired_at,
            )
            rows[generations][made[:1]] = seal.sealed("generations", made)
            cells = _wrap_cells(cluster.uid, generation.kek_id, generation.current)
            rows[wraps][cells[:1]] = seal.sealed("wraps", cells)
    return rows


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
            _digest(stored.children),
            stored.history_head,
            stored.history_count,
            seal.service_key_id,
        ),
    )
    return replace(stored, own=own)


def _region_cells(uid: bytes, region: Region) -> Cells:
    spec, policy, newest = region.key_spec, region.policy, region.newest
    return (
        uid,
        region.name,
        region.state.value,
        region.state_since,
        spec.type,
        spec.uri,
        spec.principal,
        options.encoded(spec.options),
        _milliseconds(policy.cache_ttl),
        _milliseconds(policy.outage_grace),
        newest.current.root.uri,
        f"root:{newest.current.root_id}",
        f"kek:{newest.kek_id.hex()}",
        1 if policy.auto_rotate else None,
    )


def _wrap_cells(uid: bytes, kek_id: bytes, wrap: Wrap) -> Cells:
    return (
        kek_id,
        wrap.number,
        uid,
        wrap.root.type,
        wrap.root.uri,
        wrap.root.principal,
        options.encoded(wrap.root.options),
        wrap.root_id,
        wrap.key_version,
        wrap.organization,
        wrap.ciphertext,
        wrap.created_at,
        wrap.root.external_id or None,
    )


def _cluster(own: Cells, children: Children) -> Cluster:
    rings: dict[str, list[Generation]] = {}
    for g in sorted(children[generations].values(), key=lambda row: (row[2], row[3])):
        w = children[wraps][g[:1]]
        root = RootKey(w[3], w[4], w[5], options.decoded(w[6]), w[12] or "")
        current = Wrap(w[1], root, w[8], w[9], w[10], w[11])
        rings.setdefault(g[2], []).append(Generation(g[0], g[3], g[4], current, g[5]))
    return Cluster(
        uid=own[0],
        name=own[1],
        organization=own[2],
        epoch=own[3],
        version=own[4],
        regions=tuple(_regions(children[regions], rings)),
        created_at=own[5],
        updated_at=own[6],
    )


def _regions(
    rows: Mapping[Cells, Cells], rings: Mapping[str, list[Generation]]
) -> Iterable[Region]:
    for key in sorted(rows):
        r = rows[key]
        yield Region(
            name=r[1],
            state=State(r[2]),
            state_since=r[3],
            key_spec=KeySpec(r[4], r[5], r[6], options.decoded(r[7])),
            policy=RegionPolicy(_seconds(r[8]), _seconds(r[9]), bool(r[13])),
            generations=tuple(rings[r[1]]),
        )


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
