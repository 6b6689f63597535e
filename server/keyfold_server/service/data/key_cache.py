"""The key cache: the clusters and open KEKs that this replica holds in memory.

A KEK enters through `put_kek` alone, after an unwrap of its own. It leaves when its cluster
changes or is revoked (`drop_cluster`), when its rows serve nobody (`distrust`), when its root key
is refused (`drop_root`), when it is refused itself (`drop_kek`), when its proof and all grace have
run out (`close_root`), when the store turns out to be another one (`drop_all`), or when the cache
is full. Each of these ends in
`_remove`, the only way out of memory.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator

from keyfold_server.domain.cluster import Cluster
from keyfold_server.service.data.cache_entries import NEVER, CachedKek, ClusterView, RootState


class KeyCache:
    """Cluster views, open KEKs and root key states. When full, it drops the least recently used.

    Attributes:
        record_use: Called with each KEK that leaves memory, and with each that served one call
            without entering it, so that its last use is not lost.
    """

    def __init__(self, max_clusters: int) -> None:
        """Makes an empty cache of at most `max_clusters` clusters."""
        self._max_clusters = max_clusters
        self._views: OrderedDict[str, ClusterView] = OrderedDict()
        self._distrusted: dict[str, Cluster] = {}
        self._roots: dict[str, RootState] = {}
        self.record_use: Callable[[CachedKek], None] = lambda _: None

    def view(self, cluster: str) -> ClusterView | None:
        """Returns a cluster's view, if it is in memory, and counts that as a use."""
        view = self._views.get(cluster)
        if view is not None:
            self._views.move_to_end(cluster)
        return view

    def peek(self, cluster: str) -> ClusterView | None:
        """Returns a cluster's view, if it is in memory, without counting that as a use."""
        return self._views.get(cluster)

    def names(self) -> list[str]:
        """Returns the names of the clusters in memory, in their alphabetical order."""
        return sorted(self._views)

    def last_seen(self, cluster: str) -> Cluster | None:
        """Returns a cluster as this replica verified it last, if that is in memory."""
        view = self._views.get(cluster)
        return self._distrusted.get(cluster) if view is None else view.cluster

    def distrust(self, name: str) -> None:
        """Drops a cluster whose rows in the store serve nobody, and remembers what it was.

        A caller may then still ban it, although its rows tell no organization (protocol A6).
        """
        seen = self.last_seen(name)
        self.drop_cluster(name)
        if seen is not None:
            self._distrusted[name] = seen
            if len(self._distrusted) > self._max_clusters:
                del self._distrusted[next(iter(self._distrusted))]

    def opened(self) -> Iterator[CachedKek]:
        """Yields every KEK in memory."""
        return itertools.chain.from_iterable(root.open for root in self._roots.values())

    def holds(self, view: ClusterView) -> bool:
        """Says whether this very view is still the one in memory.

        A load remembers the view that it began under. Whatever invalidates the cluster removes
        that view, so a load that ends later sees that it was overtaken (protocol R2).
        """
        return self._views.get(view.cluster.name) is view

    def put_view(self, view: ClusterView) -> None:
        """Keeps a view that was just read, unless the one in memory is of that version or newer."""
        name = view.cluster.name
        old = self._views.get(name)
        if old is not None:
            if old.cluster.uid == view.cluster.uid and old.cluster.version >= view.cluster.version:
                return
            self.drop_cluster(name)
        self._distrusted.pop(name, None)
        self._views[name] = view
        while len(self._views) > self._max_clusters:
            self.drop_cluster(next(iter(self._views)))

    def put_kek(self, opened: CachedKek) -> None:
        """Keeps an open KEK in its view, in place of an earlier opening of the same KEK."""
        root = opened.root
        old = opened.view.open.get(opened.kek.kek_id)
        if old is not None:
            opened.used_at, opened.swept = old.used_at, old.swept
            used = opened if root.used is old else root.used
            self._remove(old)
            root.used = used
        opened.view.open[opened.kek.kek_id] = opened
        root.shortest = min(root.shortest, opened.ttl) if root.open else opened.ttl
        root.open.add(opened)

    def drop_kek(self, view: ClusterView, kek_id: bytes) -> None:
        """Drops one KEK, if it is in memory."""
        opened = view.open.get(kek_id)
        if opened is not None:
            self._remove(opened)

    def root(self, root_id: str) -> RootState:
        """Returns the state of a root key version, a new one where nothing is known of it."""
        state = self._roots.get(root_id)
        if state is None:
            state = self._roots[root_id] = RootState(root_id)
        return state

    def known_root(self, root_id: str) -> RootState | None:
        """Returns the state of a root key version, or None where nothing is known of it."""
        return self._roots.get(root_id)

    def roots(self, prefix: str) -> list[RootState]:
        """Returns the root key versions whose ids begin with a prefix."""
        return [root for root_id, root in self._roots.items() if root_id.startswith(prefix)]

    def forget_root(self, root: RootState) -> None:
        """Forgets a root key version that has no KEK in memory.

        A load under way would bring back a state that no refusal reaches, so it is invalidated.
        """
        if not root.open:
            root.invalidations += 1
            self._roots.pop(root.root_id, None)

    def count(self, now: float) -> tuple[int, int, int]:
        """Counts the clusters and KEKs in memory, and the KEKs that serve on grace at `now`.

        Any thread may call it: it looks at copies, and nothing interrupts the making of a copy.
        """
        keks = graced = 0
        for root in tuple(self._roots.values()):
            keks += len(root.open)
            if root.unknown is not None:
                graced += sum(
                    1
                    for kek in tuple(root.open)
                    if root.proof + kek.ttl <= now < root.proof + kek.ttl + kek.grace
                )
        return len(self._views), keks, graced

    def drop_cluster(self, name: str) -> None:
        """Drops a cluster's view and every KEK opened for it."""
        view = self._views.pop(name, None)
        if view is not None:
            for opened in list(view.open.values()):
                self._remove(opened)

    def drop_root(self, root: RootState) -> None:
        """Drops every KEK under a root key; voids its proofs, including those of running loads."""
        self.close_root(root)
        root.proof = NEVER
        root.invalidations += 1

    def close_root(self, root: RootState) -> None:
        """Drops every KEK under a root key whose proof has run out."""
        for opened in list(root.open):
            self._remove(opened)

    def drop_all(self) -> None:
        """Drops everything, as when the store turns out to be another one (protocol S1)."""
        self._distrusted.clear()
        for name in list(self._views):
            self.drop_cluster(name)
        for root in self._roots.values():
            self.drop_root(root)

    def _remove(self, opened: CachedKek) -> None:
        """Takes a KEK out of memory: out of its view, where calls find it, and of its root key."""
        opened.view.open.pop(opened.kek.kek_id, None)
        opened.root.open.discard(opened)
        if opened.root.used is opened:
            opened.root.used = None
        self.record_use(opened)
