"""Floors: the decisions that this process has seen of each cluster (protocol S10).

A read that begins after this process saw a decision must find the cluster at that decision or above
it, even if the store no longer has the entry. The floors live in memory, so a process that starts
has none.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from keyfold_server.store.seal import not_authentic

if TYPE_CHECKING:
    from keyfold_server.domain.log import Floor
    from keyfold_server.store.tables.clusters import StoredCluster

_MOST: Final = 100_000
"""Most clusters whose floors stay in memory; then those that changed longest ago go."""


class Floors:
    """The decisions that this process has seen. Safe for any number of threads."""

    def __init__(self) -> None:
        """Starts with nothing seen."""
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, Floor]] = {}

    def raise_to(self, number: int, name: str, floor: Floor) -> None:
        """Raises a cluster's floor to that of an entry, unless a later entry has raised it."""
        with self._lock:
            known = self._seen.pop(name, (0, floor))
            self._seen[name] = (number, floor) if number >= known[0] else known
            if len(self._seen) > _MOST:
                del self._seen[next(iter(self._seen))]

    def of(self, name: str) -> Floor | None:
        """Returns the floor of a cluster. A read asks for it before it begins."""
        found = self._seen.get(name)
        return None if found is None else found[1]

    def clear(self) -> None:
        """Forgets every floor, because the process goes on with the store as it is."""
        with self._lock:
            self._seen.clear()


def hold(stored: StoredCluster | None, floor: Floor | None) -> None:
    """Refuses a cluster that lies below its floor.

    Raises:
        RowNotAuthenticError: It does.
    """
    if stored is not None and floor is not None and not floor.is_kept_by(stored.floor):
        raise not_authentic("clusters", stored.cluster.name)
