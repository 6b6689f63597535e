"""A cluster to its rows and back; no row is believed before its MAC was checked.

The cluster's own row carries a digest over the MACs of all others in a fixed order, so that a row
that was deleted, added, or put back as it once was does not fit, though its own MAC may.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Select, select

from keyfold_server.domain.cluster import Cluster, Generation, Region, Wrap
from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.store import seal as seals
from keyfold_server.store.schema import Cells, clusters, generations, regions, wraps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import ColumnElement, Table

    from keyfold_server.store.seal import Seal

CHILDREN: Final = (regions, generations, wraps)
"""Tables below a cluster's row, parents first."""

Children = dict["Table", dict[Cells, Cells]]
"""Rows below a cluster's, by table and primary key."""

_A: Final = len(clusters.columns)
_B: Final = _A + len(regions.columns)
_C: Final = _B + len(generations.columns)

_AGGREGATE: Final = (
    select(*clusters.c, *regions.c, *generations.c, *wraps.c)
    .outerjoin(regions, regions.c.cluster_uid == clusters.c.uid)
    .outerjoin(
        generations,
        (generations.c.cluster_uid == regions.c.cluster_uid)
        & (generations.c.region == regions.c.name),
    )
    .outerjoin(wraps, wraps.c.kek_id == generations.c.kek_id)
    .order_by(clusters.c.name)
)
# One statement, so that also a database whose transactions do not read one snapshot gives the
# rows of one moment: from two, the digest could fail without anybody's fault.


@dataclass(frozen=True, slots=True)
class StoredCluster:
    """A cluster with what of its rows the domain does not know.

    Attributes:
        cluster: The cluster.
        head: MAC of its last audit event, empty before the first.
        events: How many audit events there are.
        children: The rows below its own, each with its MAC.
    """

    cluster: Cluster
    head: bytes
    events: int
    children: Children = field(repr=False)


def read(
    connection: Connection, seal: Seal, where: ColumnElement[bool]
) -> dict[str, StoredCluster | RowNotAuthenticError]:
    """Reads the clusters that a condition on their own rows names, in the order of their names.

    The order is the database's own, so that the next page begins where this one ended. A cluster
    that is not authentic spoils only itself: whoever wants it raises the error.
    """
    statement: Select[Any] = _AGGREGATE.where(where)
    found: dict[object, tuple[Cells, Children]] = {}
    for row in connection.execute(statement):
        cells = tuple(row)
        own = cells[:_A]
        _, children = found.setdefault(own[0], (own, {t: {} for t in CHILDREN}))
        region, generation, wrap = cells[_A:_B], cells[_B:_C], cells[_C:]
        if region[0] is not None:
            children[regions][region[:2]] = region
        if generation[0] is not None:
            children[generations][generation[:1]] = generation
        if wrap[0] is not None:
            children[wraps][wrap[:2]] = wrap
    return {own[1]: _verified(own, children, seal) for own, children in found.values()}


def _verified(own: Cells, children: Children, seal: Seal) -> StoredCluster | RowNotAuthenticError:
    name = own[1] if isinstance(own[1], str) else None
    try:
        seal.check("clusters", own, name)
        for table, rows in children.items():
            for row in rows.values():
                seal.check(table.name, row, name)
        if own[7] != _digest(children) or own[10] != seal.service_key_id:
            return seals.not_authentic("clusters", name)
    except RowNotAuthenticError as error:
        return error
    return StoredCluster(_cluster(own, children), head=own[8], events=own[9], children=children)


def _digest(children: Children) -> bytes:
    by_order = {
        regions: lambda row: row[1],
        # Within a cluster a generation's place is its region and number.
        generations: lambda row: (row[2], row[3]),
        wraps: lambda row: row[:2],
    }
    return seals.digest(
        row[-1]
        for table in CHILDREN
        for row in sorted(children[table].values(), key=by_order[table])
    )


def encoded(cluster: Cluster, seal: Seal) -> Children:
    """Returns the rows below a cluster's own."""
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
            for wrap in generation.wraps:
                cells = _wrap_cells(cluster.uid, generation.kek_id, wrap)
                rows[wraps][cells[:2]] = seal.sealed("wraps", cells)
    return rows


def own_row(stored: StoredCluster, seal: Seal) -> Cells:
    """Returns the cluster's own row, which vouches for all that belongs to it."""
    c = stored.cluster
    return seal.sealed(
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
            stored.head,
            stored.events,
            seal.service_key_id,
        ),
    )


def check_own_row(row: Cells, seal: Seal) -> None:
    """Checks a cluster's own row alone, as far as it speaks for itself.

    Raises:
        RowNotAuthenticError: It is not authentic.
    """
    seal.check("clusters", row, row[1] if isinstance(row[1], str) else None)


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
        _options_text(spec.options),
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
        _options_text(wrap.root.options),
        wrap.root_id,
        wrap.key_version,
        wrap.organization,
        wrap.ciphertext,
        wrap.created_at,
        wrap.superseded_at,
        wrap.root.external_id or None,
    )


def _cluster(own: Cells, children: Children) -> Cluster:
    kept: dict[bytes, list[Wrap]] = {}
    for key in sorted(children[wraps]):
        w = children[wraps][key]
        root = RootKey(w[3], w[4], w[5], _options(w[6]), w[13] or "")
        kept.setdefault(w[0], []).append(Wrap(w[1], root, w[8], w[9], w[10], w[11], w[12]))
    rings: dict[str, list[Generation]] = {}
    for g in sorted(children[generations].values(), key=lambda row: (row[2], row[3])):
        rings.setdefault(g[2], []).append(Generation(g[0], g[3], g[4], tuple(kept[g[0]]), g[5]))
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
            key_spec=KeySpec(r[4], r[5], r[6], _options(r[7])),
            policy=RegionPolicy(_seconds(r[8]), _seconds(r[9]), bool(r[13])),
            generations=tuple(rings[r[1]]),
        )


def _options_text(options: tuple[tuple[str, str], ...]) -> str:
    # ASCII, so that also a character that no database takes in a text, NUL, is stored.
    return json.dumps(dict(options), sort_keys=True, separators=(",", ":"))


def _options(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(json.loads(text).items())) if text != "{}" else ()


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
