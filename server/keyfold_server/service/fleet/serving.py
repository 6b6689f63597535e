"""Serving: which regions the replicas of a store serve together, by what their heartbeats say."""

from __future__ import annotations

from collections.abc import Iterable

from keyfold_server.domain.ports import ReplicaRow
from keyfold_server.domain.served_regions import ServedRegions


def served_by(rows: Iterable[ReplicaRow]) -> ServedRegions:
    """Returns the regions that at least one live replica serves; all, if a control replica lives.

    Args:
        rows: What the store knows of the replicas.
    """
    names: set[str] = set()
    for row in rows:
        if not row.lives:
            continue
        if row.serves is None:
            return ServedRegions()
        names |= row.serves
    return ServedRegions(frozenset(names))
