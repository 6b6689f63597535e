"""A cluster as rows, and rows as a cluster: only their form, and no database.

The cluster's own row is `clusters`'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from keyfold_server.domain.cluster import Cluster, Generation, Region, Wrap
from keyfold_server.domain.keyspec import KeySpec, RegionPolicy, RootKey
from keyfold_server.domain.lifecycle import State
from keyfold_server.store import seal as seals
from keyfold_server.store.schema import Cells, generations, regions, wraps
from keyfold_server.store.tables import groups, options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Table

    from keyfold_server.store.seal import Seal

CHILDREN: Final = (regions, generations, wraps)
"""Tables of the rows below a cluster's own row, parents first."""

Children = dict["Table", dict[Cells, Cells]]
"""The rows below a cluster's own row, by table and primary key."""


def digest(children: Children) -> bytes:
    """Returns the digest over the rows below a cluster's own row, in their fixed order."""
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


def encoded(cluster: Cluster, seal: Seal, before: Children | None = None) -> Children:
    """Returns the rows below a cluster's own row.

    Args:
        cluster: The cluster.
        seal: Seals the rows.
        before: The rows as they are, which are verified. One that does not change is not sealed
            again: the same values have the same MAC.
    """
    rows: Children = {table: {} for table in CHILDREN}

    def add(table: Table, key: Cells, cells: Cells) -> None:
        row = None if before is None else before[table].get(key)
        if row is None or row[:-1] != cells:
            row = seal.sealed(table.name, cells)
        rows[table][key] = row

    for region in cluster.regions:
        own = _region_cells(cluster, region)
        add(regions, own[:2], own)
        for generation in region.generations:
            made = (
                generation.kek_id,
                cluster.uid,
                region.name,
                generation.number,
                generation.created_at,
                generation.retired_at,
            )
            add(generations, made[:1], made)
            cells = _wrap_cells(cluster, generation)
            add(wraps, cells[:1], cells)
    return rows


def _region_cells(cluster: Cluster, region: Region) -> Cells:
    spec, policy, newest = region.key_spec, region.policy, region.newest
    return (
        cluster.uid,
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
        cluster.name,
        1 if policy.auto_rotate else None,
        region.purge_time,
        region.replica_of or None,
        region.geo or None,
        link_column(cluster.organization, region.link) if region.link else None,
    )


def link_column(organization: str | None, link: str) -> str:
    """Returns a key link as the row of a region that uses it has it."""
    return f"{organization}/{link}"


def _wrap_cells(cluster: Cluster, generation: Generation) -> Cells:
    wrap = generation.current
    return (
        generation.kek_id,
        wrap.number,
        cluster.uid,
        cluster.name,
        wrap.root.type,
        wrap.root.uri,
        wrap.root.principal,
        options.encoded(wrap.root.options),
        *groups.encoded(wrap.groups),
        wrap.root_id,
        wrap.key_version,
        wrap.organization,
        wrap.ciphertext,
        wrap.created_at,
        wrap.root.external_id or None,
    )


def decoded(own: Cells, children: Children) -> Cluster:
    """Returns the cluster of rows that are verified."""
    rings: dict[str, list[Generation]] = {}
    for g in sorted(children[generations].values(), key=lambda row: (row[2], row[3])):
        w = children[wraps][g[:1]]
        root = RootKey(w[4], w[5], w[6], options.decoded(w[7]), w[16] or "")
        current = Wrap(w[1], root, w[12], w[13], w[14], w[15], groups.decoded(w[8:11]))
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
        declared=tuple((own[11] or "").split()),
        first_use=own[12],
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
            policy=RegionPolicy(_seconds(r[8]), _seconds(r[9]), bool(r[14])),
            generations=tuple(rings[r[1]]),
            purge_time=r[15],
            replica_of=r[16] or "",
            geo=r[17] or "",
            link=(r[18] or "").partition("/")[2],
        )


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
