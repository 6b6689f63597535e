"""What this replica holds in memory: clusters as read, and opened KEKs.

Invariant: a KEK is here only through an unwrap of its own, and goes when its cluster changes,
when its root key is refused, when its proof with all grace has run out, or when memory is full.
`drop_cluster` and `drop_root` are the only ways out, so a revocation has one place to reach.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keyfold_server.domain.cluster import Cluster, Generation, Region
from keyfold_server.domain.envelope import Kek
from keyfold_server.domain.errors import CouldNotTellError, KmsError, NotAsked
from keyfold_server.domain.lifecycle import Action, State, after
from keyfold_server.service.timing import Timing

NEVER = float("-inf")


class RootState:
    """What this replica knows of one root key version (protocol section 1).

    Attributes:
        root_id: `Wrap.root_id`.
        proof: When the last unwrap that succeeded began; NEVER without one.
        unknown: Why the KMS could not be asked last time, or None.
        unknown_until: When to ask again.
        failures: Times in a row that it could not be asked.
        used: The KEK that a call used last, since the last look; what a refresh will unwrap.
        open: KEKs in memory under this root key.
        shortest: Seconds of the shortest TTL among them; those that left may have had it.
        voids: How often its proofs were voided; a load that began before does not count.
        spread: Its refusal has been told to the other replicas, and no proof came since.
        due: When the keeper looks at it next; an entry of its queue with another time is old.
    """

    __slots__ = (
        "due",
        "failures",
        "open",
        "proof",
        "root_id",
        "shortest",
        "spread",
        "unknown",
        "unknown_until",
        "used",
        "voids",
    )

    def __init__(self, root_id: str) -> None:
        """Starts with nothing known."""
        self.root_id = root_id
        self.proof = NEVER
        self.unknown: CouldNotTellError | NotAsked | None = None
        self.unknown_until = NEVER
        self.failures = 0
        self.used: OpenKek | None = None
        self.open: set[OpenKek] = set()
        self.shortest = 0.0
        self.voids = 0
        self.spread = False
        self.due = NEVER

    def proven(self, began: float) -> None:
        """Records an unwrap that succeeded; its time is when it began."""
        self.proof = max(self.proof, began)
        self.unknown = None
        self.unknown_until = NEVER
        self.failures = 0
        self.spread = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A KEK's refusal: remembered for a while, and until the KEK's own unwrap succeeds (F4).

    Attributes:
        error: What the KMS answered.
        until: When to ask again, monotonic seconds.
    """

    error: KmsError
    until: float


@dataclass(frozen=True, slots=True)
class RegionView:
    """A region as calls need it.

    Attributes:
        region: As the store has it.
        ttl: Seconds that a proof lasts.
        grace: Seconds beyond it while the KMS cannot be asked.
        newest: The kek_id that wraps.
    """

    region: Region
    ttl: float
    grace: float
    newest: bytes


class View:
    """A cluster as read from the store, with the KEKs opened for it since.

    Attributes:
        cluster: As the store had it.
        regions: By name.
        keks: Region and generation, by kek_id.
        open: Opened KEKs, by kek_id.
        refused: KEKs whose last unwrap was refused, by kek_id.
    """

    __slots__ = ("cluster", "keks", "open", "refused", "regions")

    def __init__(self, cluster: Cluster, timing: Timing) -> None:
        """Arranges a cluster for look-up by name and by kek_id."""
        self.cluster = cluster
        self.regions: dict[str, RegionView] = {}
        self.keks: dict[bytes, tuple[RegionView, Generation]] = {}
        self.open: dict[bytes, OpenKek] = {}
        self.refused: dict[bytes, Refusal] = {}
        for region in cluster.regions:
            policy = region.policy
            view = RegionView(
                region,
                timing.cache_ttl if policy.cache_ttl is None else policy.cache_ttl,
                timing.outage_grace if policy.outage_grace is None else policy.outage_grace,
                region.newest.kek_id,
            )
            self.regions[region.name] = view
            for generation in region.generations:
                self.keks[generation.kek_id] = (view, generation)

    def check_usable(self, region: RegionView) -> None:
        """Refuses a region whose state forbids use, with RevokedError."""
        if region.region.state is not State.ENABLED:
            after(
                region.region.state,
                Action.USE,
                cluster=self.cluster.name,
                region=region.region.name,
            )


class OpenKek:
    """A KEK in memory, with what decides how long it may be used.

    Attributes:
        used_at: When a call used it last, monotonic seconds; NEVER before the first.
        swept: Uses until then the sweep has seen to.
    """

    __slots__ = (
        "began",
        "grace",
        "kek",
        "region",
        "root",
        "swept",
        "ttl",
        "used_at",
        "view",
        "voids",
    )

    def __init__(
        self, kek: Kek, view: View, region: RegionView, root: RootState, began: float
    ) -> None:
        """Joins a cipher with its place; `began` is when the unwrap that opened it began."""
        self.kek = kek
        self.view = view
        self.region = region
        self.root = root
        self.ttl = region.ttl
        self.grace = region.grace
        self.began = began
        self.used_at = NEVER
        self.swept = NEVER
        self.voids = root.voids

    def __repr__(self) -> str:
        """Names the KEK, never its key."""
        return f"OpenKek({self.kek!r})"


class KeyCache:
    """Views and open KEKs of this replica, least recently used clusters going first.

    Attributes:
        left: Told of a KEK that leaves memory, and of one that served without being in it.
    """

    def __init__(self, max_clusters: int) -> None:
        """Makes an empty cache of at most `max_clusters` clusters."""
        self._max_clusters = max_clusters
        self._views: OrderedDict[str, View] = OrderedDict()
        self._roots: dict[str, RootState] = {}
        self.left: Callable[[OpenKek], None] = lambda _: None

    def view(self, cluster: str) -> View | None:
        """Returns a cluster's view, if it is in memory, and counts that as use."""
        view = self._views.get(cluster)
        if view is not None:
            self._views.move_to_end(cluster)
        return view

    def peek(self, cluster: str) -> View | None:
        """Returns a cluster's view, if it is in memory, and counts that as nothing."""
        return self._views.get(cluster)

    def opened(self) -> Iterator[OpenKek]:
        """Yields every KEK in memory."""
        return itertools.chain.from_iterable(root.open for root in self._roots.values())

    def holds(self, view: View) -> bool:
        """Says whether this very view is still the one in memory.

        A load remembers the view that it began under; whatever invalidates the cluster removes
        the view, so a load that ends later sees that it was overtaken (protocol R2).
        """
        return self._views.get(view.cluster.name) is view

    def put_view(self, view: View) -> None:
        """Keeps a view that was just read; one in memory of the same version or newer stays."""
        name = view.cluster.name
        old = self._views.get(name)
        if old is not None:
            if old.cluster.uid == view.cluster.uid and old.cluster.version >= view.cluster.version:
                return
            self.drop_cluster(name)
        self._views[name] = view
        while len(self._views) > self._max_clusters:
            self.drop_cluster(next(iter(self._views)))

    def put_kek(self, opened: OpenKek) -> None:
        """Keeps an opened KEK with its view, in place of an earlier opening of the same."""
        old = opened.view.open.get(opened.kek.kek_id)
        root = opened.root
        used = root.used if root.used is not old else opened
        if old is not None:
            opened.used_at, opened.swept = old.used_at, old.swept
            self._detach(old)
            root.used = used
        opened.view.open[opened.kek.kek_id] = opened
        root.shortest = min(root.shortest, opened.ttl) if root.open else opened.ttl
        root.open.add(opened)

    def drop_kek(self, view: View, kek_id: bytes) -> None:
        """Drops one KEK."""
        opened = view.open.pop(kek_id, None)
        if opened is not None:
            self._forget(opened)

    def root(self, root_id: str) -> RootState:
        """Returns what is known of a root key version, starting with nothing."""
        state = self._roots.get(root_id)
        if state is None:
            state = self._roots[root_id] = RootState(root_id)
        return state

    def known_root(self, root_id: str) -> RootState | None:
        """Returns what is known of a root key version, or None."""
        return self._roots.get(root_id)

    def roots(self, prefix: str) -> list[RootState]:
        """Returns the root key versions whose ids begin so."""
        return [root for root_id, root in self._roots.items() if root_id.startswith(prefix)]

    def forget_root(self, root: RootState) -> None:
        """Forgets a root key version that no KEK in memory is under.

        A load under way would bring back a state that no refusal reaches: it is voided.
        """
        if not root.open:
            root.voids += 1
            self._roots.pop(root.root_id, None)

    def count(self, now: float) -> tuple[int, int, int]:
        """Counts clusters and KEKs in memory, and KEKs that serve on grace at a time."""
        keks = graced = 0
        for root in self._roots.values():
            keks += len(root.open)
            if root.unknown is not None:
                graced += sum(
                    1
                    for kek in root.open
                    if root.proof + kek.ttl <= now < root.proof + kek.ttl + kek.grace
                )
        return len(self._views), keks, graced

    def drop_cluster(self, name: str) -> None:
        """Drops a cluster's view and every KEK opened for it."""
        view = self._views.pop(name, None)
        if view is not None:
            for opened in view.open.values():
                self._forget(opened)
            view.open.clear()

    def drop_root(self, root: RootState) -> None:
        """Drops every KEK under a root key and voids its proofs, those being fetched included."""
        self.close_root(root)
        root.proof = NEVER
        root.voids += 1

    def close_root(self, root: RootState) -> None:
        """Drops every KEK under a root key, whose proof has run out by itself."""
        for opened in root.open:
            opened.view.open.pop(opened.kek.kek_id, None)
            self.left(opened)
        root.open.clear()
        root.used = None

    def drop_all(self) -> None:
        """Drops everything, as when the store turns out to be another one (protocol S1)."""
        for name in list(self._views):
            self.drop_cluster(name)
        for root in self._roots.values():
            self.drop_root(root)

    def _forget(self, opened: OpenKek) -> None:
        self._detach(opened)
        self.left(opened)

    def _detach(self, opened: OpenKek) -> None:
        opened.root.open.discard(opened)
        if opened.root.used is opened:
            opened.root.used = None
