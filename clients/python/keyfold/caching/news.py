"""What the watch has told of clusters, and until when that may be relied on (protocol R8)."""

from __future__ import annotations

from typing import Final

from keyfold.calls.watch import NEVER, Moment
from keyfold.models.status import Health, State
from keyfold.models.watch import ClusterState

_SERVING: Final = frozenset(
    {
        Health.UNKNOWN,
        Health.HEALTHY,
        Health.UNREACHABLE,
        Health.THROTTLED,
        Health.CREDENTIALS_FAILED,
    }
)
"""What does not say that the customer's KMS refuses the key. Every other health does, or is newer
than this client."""


class Standing:
    """What was told of a cluster by one message. Another message makes another one.

    Attributes:
        usable: The regions and generations whose keys may be kept.
    """

    __slots__ = ("usable",)

    def __init__(self, usable: frozenset[tuple[str, int]]) -> None:
        self.usable = usable


class News:
    """The newest of every cluster that the watch tells of. Its owner's lock guards it.

    Attributes:
        good_until: Until when this may be relied on.
        watched: Whether there is a watch at all; None: it has not begun.
        begun: How many times the cache has called `begin`.
    """

    def __init__(self) -> None:
        """Knows nothing."""
        self.good_until = NEVER
        self.watched: bool | None = None
        self.begun = 0
        self._standings: dict[str, Standing] = {}
        # Most clusters are alike in this, so they share it.
        self._alike: dict[frozenset[tuple[str, int]], frozenset[tuple[str, int]]] = {}

    def begin(self, *, watched: bool | None) -> None:
        """Forgets everything."""
        self.good_until = NEVER
        self.watched = watched
        self.begun += 1
        self._standings.clear()
        self._alike.clear()

    def of(self, cluster: str) -> Standing | None:
        """Returns what was told of a cluster; None: nothing, or that it does not exist."""
        return self._standings.get(cluster)

    def tell(self, state: ClusterState) -> None:
        """Takes the state of a cluster."""
        if not state.exists or state.banned or state.not_authentic:
            self._standings.pop(state.cluster, None)
            return
        usable = frozenset(
            (region.region, each.generation)
            for region in state.regions
            if region.state is State.ENABLED and region.health in _SERVING and region.cache_ttl
            for each in region.generations
            if not each.retired
        )
        usable = self._alike.setdefault(usable, usable)
        self._standings[state.cluster] = Standing(usable)

    def good(self, now: Moment) -> bool:
        """Returns whether what was told may be relied on at a moment."""
        return now.before(self.good_until)
