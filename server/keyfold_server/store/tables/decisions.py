"""Decisions: what the log's entries made of a cluster, held against rows that nobody verified.

It is for people, who decide whether rows are right (protocol A1). Keyfold itself holds a cluster
against its floor (`floors`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.log import EntryKind
from keyfold_server.store import schema
from keyfold_server.store.tables import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyfold_server.domain.cluster import Cluster, Region
    from keyfold_server.store.seal import Seal


@dataclass(slots=True)
class _Decided:
    """A region as the decisions in the log left it."""

    state: str
    key: str
    purge_time: int | None = None
    keks: dict[str, int] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)


def differences(connection: Connection, cluster: Cluster, seal: Seal) -> Iterator[str]:
    """Yields how regions differ from what the decisions in the log made of them."""
    decided, whole, spoilt = _decisions(connection, cluster.name, seal)
    for number in spoilt:
        yield f"log {number}: not sealed by the service key"
    if not whole:
        yield "the log no longer has every decision about the cluster: it shows only the later ones"
    regions = {region.name: region for region in cluster.regions}
    for name in sorted(decided.keys() | (regions.keys() if whole else set())):
        if name not in regions:
            yield f"region {name}: no row, and the log has the region"
        elif name not in decided:
            yield f"region {name}: the log does not have it"
        else:
            yield from _of_region(regions[name], decided[name], whole=whole)


def _of_region(region: Region, decided: _Decided, *, whole: bool) -> Iterator[str]:
    name = region.name
    if region.state.value != decided.state:
        yield f"region {name}: {region.state.value} in the row, {decided.state} in the log"
    if region.purge_time != decided.purge_time:
        yield (
            f"region {name}: purge time {region.purge_time} in the row, {decided.purge_time} in "
            "the log"
        )
    key = f"{region.key_spec.type} {region.key_spec.uri}"
    if key != decided.key:
        yield f"region {name}: key {key!a} in the row, {decided.key!a} in the log"
    keks = {g.kek_id.hex(): g.current.number for g in region.generations}
    for kek in sorted(decided.keks.keys() - keks.keys()):
        yield f"region {name}: no KEK {kek}, and the log has it"
    for kek in sorted(keks):
        if kek not in decided.keks:
            if whole:
                yield f"region {name}: the log does not have KEK {kek}"
        elif keks[kek] != decided.keks[kek]:
            yield f"region {name}: another wrap of KEK {kek} than the one in the log"
    retired = {g.kek_id.hex() for g in region.generations if g.retired_at is not None}
    for kek in sorted((retired ^ decided.retired) & decided.keks.keys()):
        yield f"region {name}: KEK {kek} is out of use in the row or in the log, and not in both"


def _decisions(
    connection: Connection, name: str, seal: Seal
) -> tuple[dict[str, _Decided], bool, list[int]]:
    """Replays the decisions about a cluster.

    Returns:
        The regions by name, whether the log has every decision, and the numbers of entries that
        are not authentic.
    """
    chosen = (
        select(*schema.log.c)
        .where(schema.log.c.cluster == name, schema.log.c.version.is_not(None))
        .order_by(schema.log.c.number)
    )
    regions: dict[str, _Decided] = {}
    whole, spoilt = False, []
    for row in map(tuple, connection.execute(chosen)):
        kind, found = EntryKind.of(row[log.KIND]), log.floor(row)
        try:
            seal.check("log", row, name)
        except RowNotAuthenticError:
            whole = False
            spoilt.append(row[log.NUMBER])
            continue
        if found is not None and found.erased:
            regions, whole = {}, True
            continue
        decision = row[log.DECISION]
        if decision is None:
            continue
        if found is not None and (found.version == 1 or kind in (EntryKind.SEAL, EntryKind.IMPORT)):
            # Such an entry has every region.
            regions, whole = {}, True
        for region, told in json.loads(decision)["regions"].items():
            _apply(regions, region, told)
    return regions, whole, spoilt


def _apply(regions: dict[str, _Decided], name: str, told: dict[str, Any]) -> None:
    if told["state"] is None:
        regions.pop(name, None)
        return
    key = f"{told['type']} {told['uri']}"
    known = regions.setdefault(name, _Decided(told["state"], key))
    known.state, known.key, known.purge_time = told["state"], key, told.get("purge_time")
    for kek, _ in (*told.get("superseded", ()), *told.get("removed", ())):
        known.keks.pop(kek, None)
    known.keks |= dict(told.get("added", ()))
    known.retired |= set(told.get("retired", ()))
    known.retired -= set(told.get("brought_back", ()))
