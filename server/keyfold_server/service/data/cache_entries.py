"""What the key cache holds: views of clusters, KEKs, and the states of their root keys."""

from __future__ import annotations

from dataclasses import dataclass

from keyfold_server.domain.cluster import Cluster, Generation, Region
from keyfold_server.domain.envelope import Kek
from keyfold_server.domain.errors import (
    CouldNotTellError,
    GenerationRetiredError,
    KmsError,
    NotAsked,
)
from keyfold_server.domain.lifecycle import Action, State
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.domain.timing import Timing

NEVER = float("-inf")
"""A monotonic time before every other."""


class RootState:
    """What this replica knows of one root key version. All times are monotonic seconds.

    A *proof* is a successful unwrap under the root key version (protocol F1).

    Attributes:
        root_id: `Wrap.root_id`.
        proof: When the unwrap behind the last proof began; NEVER without a proof.
        unknown: Why the KMS gave no answer when it was last called, or None.
        unknown_until: When the KMS may be called again.
        not_asked: Why Keyfold's own limits kept the last refresh from the KMS, or None. This gives
            no grace (protocol F8).
        not_asked_until: When to try that refresh again.
        failures: Failed attempts in a row.
        used: The KEK that a call used last since the keeper's last look. A refresh unwraps it.
        open: KEKs in memory under this root key.
        shortest: Seconds of the shortest TTL among them. A KEK that left may have had it.
        invalidations: Counts how often its proofs were voided. A load that began under another
            count is discarded (protocol R2).
        refusal_announced: Whether this replica told the others of a refusal, and no proof has
            come since.
        due: When the keeper looks at it next. Queue entries with another time are outdated.
    """

    __slots__ = (
        "due",
        "failures",
        "invalidations",
        "not_asked",
        "not_asked_until",
        "open",
        "proof",
        "refusal_announced",
        "root_id",
        "shortest",
        "unknown",
        "unknown_until",
        "used",
    )

    def __init__(self, root_id: str) -> None:
        """Starts with nothing known."""
        self.root_id = root_id
        self.proof = NEVER
        self.unknown: CouldNotTellError | None = None
        self.unknown_until = NEVER
        self.not_asked: NotAsked | None = None
        self.not_asked_until = NEVER
        self.failures = 0
        self.used: CachedKek | None = None
        self.open: set[CachedKek] = set()
        self.shortest = 0.0
        self.invalidations = 0
        self.refusal_announced = False
        self.due = NEVER

    def proven(self, began: float) -> None:
        """Records a proof, whose time is when its unwrap began."""
        self.proof = max(self.proof, began)
        self.unknown = None
        self.unknown_until = NEVER
        self.not_asked = None
        self.not_asked_until = NEVER
        self.failures = 0
        self.refusal_announced = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A KEK's refusal, remembered until a time and until the KEK's own unwrap succeeds (F4).

    Attributes:
        error: The KMS's answer.
        until: When to ask the KMS again, monotonic seconds.
    """

    error: KmsError
    until: float


@dataclass(frozen=True, slots=True)
class RegionView:
    """A region as calls need it.

    Attributes:
        region: The region as the store has it.
        ttl: Seconds that a proof lasts.
        grace: Seconds that KEKs serve beyond the TTL while the KMS cannot be asked.
        newest: The kek_id of the generation that wraps.
    """

    region: Region
    ttl: float
    grace: float
    newest: bytes


class ClusterView:
    """A cluster as read from the store, with the KEKs opened for it since.

    Attributes:
        cluster: The cluster as the store had it.
        regions: Regions by name.
        keks: The region and generation of each KEK, by kek_id.
        open: Open KEKs, by kek_id.
        refused: KEKs whose last unwrap was refused, by kek_id.
    """

    __slots__ = ("_served", "cluster", "keks", "open", "refused", "regions")

    def __init__(self, cluster: Cluster, timing: Timing, served: ServedRegions) -> None:
        """Arranges a cluster for look-up by name and by kek_id."""
        self.cluster = cluster
        self._served = served
        self.regions: dict[str, RegionView] = {}
        self.keks: dict[bytes, tuple[RegionView, Generation]] = {}
        self.open: dict[bytes, CachedKek] = {}
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
        """Refuses a region whose state forbids use.

        Raises:
            RevokedError: The region is revoked.
            KeyDeletedError: The region is deleted.
        """
        if region.region.state is not State.ENABLED:
            region.region.following(Action.USE, self.cluster.name)

    def check_opens(self, kek_id: bytes) -> None:
        """Refuses to open a KEK that this replica must not have in memory.

        Raises:
            GenerationRetiredError: Its generation is retired.
            WrongRegionError: This replica does not serve its region.
        """
        region, generation = self.keks[kek_id]
        name = region.region.name
        if generation.retired_at is not None:
            raise GenerationRetiredError(
                f"generation {generation.number} of region {name} is retired; bring it back with "
                "RetireGeneration before you use what it wrapped",
                cluster=self.cluster.name,
                region=name,
            )
        self._served.check(name, self.cluster.name)


class CachedKek:
    """A KEK in memory, with what decides how long it may be used. Times are monotonic seconds.

    Attributes:
        kek: The open key.
        view: The view that it was opened under.
        region: The view of its region.
        root: The state of its root key version.
        ttl: Seconds that a proof of the root key lasts for it.
        grace: Seconds that it serves beyond the TTL while the KMS cannot be asked.
        began: When the unwrap that opened it began.
        used_at: When a call last used it; NEVER before the first use.
        swept: The sweep has dealt with uses up to this time.
        invalidations: The root key's count of invalidations when this KEK was opened.
    """

    __slots__ = (
        "began",
        "grace",
        "invalidations",
        "kek",
        "region",
        "root",
        "swept",
        "ttl",
        "used_at",
        "view",
    )

    def __init__(
        self, kek: Kek, view: ClusterView, region: RegionView, root: RootState, began: float
    ) -> None:
        """Joins an open key to its cluster, region and root key."""
        self.kek = kek
        self.view = view
        self.region = region
        self.root = root
        self.ttl = region.ttl
        self.grace = region.grace
        self.began = began
        self.used_at = NEVER
        self.swept = NEVER
        self.invalidations = root.invalidations

    def __repr__(self) -> str:
        """Names the KEK, never its key."""
        return f"CachedKek({self.kek!r})"
