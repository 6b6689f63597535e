"""The keys in memory: found by name, bounded in number, dropped by cluster and region."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from keyfold.caching.keys import HeldKey, OpeningName, SealingName
from keyfold.calls.watch import Moment


class Shelf:
    """Keys, the least recently used first. Its owner's lock guards it."""

    def __init__(self, most: int) -> None:
        """Takes the most keys that it may hold."""
        self._most = most
        self._keys: OrderedDict[OpeningName, HeldKey] = OrderedDict()
        self._sealing: dict[SealingName, HeldKey] = {}
        self._clusters: dict[str, set[HeldKey]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def to_open(self, name: OpeningName) -> HeldKey | None:
        """Returns the key of that name, as the one used last."""
        held = self._keys.get(name)
        if held is not None:
            self._keys.move_to_end(name)
        return held

    def to_seal(self, name: SealingName) -> HeldKey | None:
        """Returns the key that seals under that name, as the one used last."""
        held = self._sealing.get(name)
        if held is not None:
            self._keys.move_to_end(held.name)
        return held

    def put(self, held: HeldKey) -> None:
        """Takes a key, and drops another of its name, or the one used least recently."""
        before = self._keys.get(held.name)
        if before is not None:
            self.drop(before)
        held.dropped = False
        self._keys[held.name] = held
        self._clusters.setdefault(held.name[0], set()).add(held)
        if held.seals is not None:
            self._sealing[held.seals] = held
        while len(self._keys) > self._most:
            self.drop(next(iter(self._keys.values())))

    def drop(self, held: HeldKey) -> None:
        """Drops a key. It is wiped at once, or when its last user has left it."""
        held.dropped = True
        del self._keys[held.name]
        cluster = held.name[0]
        self._clusters[cluster].discard(held)
        if not self._clusters[cluster]:
            del self._clusters[cluster]
        if held.seals is not None and self._sealing.get(held.seals) is held:
            del self._sealing[held.seals]
        if not held.users:
            held.wipe()

    def drop_cluster(self, cluster: str, region: str | None = None) -> None:
        """Drops the keys of a cluster, or of one of its regions."""
        self._drop_all(
            held
            for held in tuple(self._clusters.get(cluster, ()))
            if region is None or held.region == region
        )

    def drop_old(self, now: Moment) -> None:
        """Drops the keys whose time is over."""
        self._drop_all(held for held in tuple(self._keys.values()) if not now.before(held.until))

    def clear(self) -> None:
        """Drops every key."""
        self._drop_all(tuple(self._keys.values()))

    def wipe_unused(self) -> None:
        """Wipes every key that nobody uses, and leaves the shelf unfit for use.

        It does not mind if another thread was in the middle of a change when it was stopped.
        """
        for held in tuple(self._keys.values()):
            if not held.users:
                held.wipe()

    def _drop_all(self, keys: Iterable[HeldKey]) -> None:
        for held in keys:
            self.drop(held)
