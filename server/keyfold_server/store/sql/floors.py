"""Floors: the decisions that this process has seen of each cluster (protocol S10).

A read that begins after this process saw a decision must find the cluster at that decision or above
it, even if the store no longer has the entry. The floors live in memory, so a process that starts
has none.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, overload

from keyfold_server.domain.bans import banned
from keyfold_server.domain.errors import ClusterBannedError, RowNotAuthenticError
from keyfold_server.store.seal import not_authentic
from keyfold_server.store.tables.clusters import StoredCluster

if TYPE_CHECKING:
    from keyfold_server.domain.cluster import Cluster
    from keyfold_server.domain.errors import Unusable
    from keyfold_server.domain.log import Floor

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


def hold(name: str, stored: StoredCluster | None, floor: Floor | None) -> None:
    """Refuses a cluster that lies below its floor, or whose name this process knows to be banned.

    Raises:
        RowNotAuthenticError: It lies below its floor.
        ClusterBannedError: Its name is banned.
    """
    if floor is not None and floor.banned:
        raise banned(name)
    if stored is not None and floor is not None and not floor.is_kept_by(stored.floor):
        raise not_authentic("clusters", stored.cluster.name)


@overload
def held(name: str, found: StoredCluster | Unusable, floor: Floor | None) -> Cluster | Unusable: ...


@overload
def held(
    name: str, found: StoredCluster | Unusable | None, floor: Floor | None
) -> Cluster | Unusable | None: ...


def held(
    name: str, found: StoredCluster | Unusable | None, floor: Floor | None
) -> Cluster | Unusable | None:
    """Returns a cluster that was read, or why it serves nobody; see `hold`."""
    if isinstance(found, ClusterBannedError | RowNotAuthenticError):
        return found
    try:
        hold(name, found, floor)
    except (ClusterBannedError, RowNotAuthenticError) as error:
        return error
    return None if found is None else found.cluster
