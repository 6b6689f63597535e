"""What the watch has told of clusters, and until when that may be relied on (protocol R8)."""

from __future__ import annotations

from typing import Final, NamedTuple

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

_FORMAT: Final = b"\x01\x01"
"""The version and suite with which a wrapped key begins (docs/wrapped-key.md)."""

_ID: Final = 16
"""Bytes of a kek_id, which follows them."""


class Place(NamedTuple):
    """A generation that is in service.

    Attributes:
        region: Its region.
        generation: Its number.
        cache_ttl: Most seconds for which the region's policy lets anybody keep a key.
    """

    region: str
    generation: int
    cache_ttl: float


class Standing:
    """What was told of a cluster by one message."""

    __slots__ = ("_keks", "places")

    def __init__(self, places: tuple[Place, ...], keks: bytes) -> None:
        """Takes the generations that are in service, and their kek_ids in the same order."""
        self.places = places
        self._keks = keks

    def place(self, wrapped_key: bytes) -> Place | None:
        """Returns the generation in service that wrapped a key, or None.

        Neither its number nor the cluster's name would do: a later cluster of that name has both,
        and a server that is behind may still open the earlier one's keys (protocol D5).
        """
        if not wrapped_key.startswith(_FORMAT):
            return None
        kek_id = wrapped_key[len(_FORMAT) : len(_FORMAT) + _ID]
        for number, place in enumerate(self.places):
            if self._keks[number * _ID : (number + 1) * _ID] == kek_id:
                return place
        return None


class News:
    """The newest of every cluster that the watch tells of. Its owner's lock guards it.

    Attributes:
        good_until: Until when this may be relied on.
        watched: Whether there is a watch at all; None: it has not begun.
    """

    def __init__(self) -> None:
        """Knows nothing."""
        self.good_until = NEVER
        self.watched: bool | None = None
        self._standings: dict[str, Standing] = {}
        # Most clusters are alike in this, so they share it.
        self._alike: dict[tuple[Place, ...], tuple[Place, ...]] = {}

    def begin(self, *, watched: bool | None) -> None:
        """Forgets everything."""
        self.good_until = NEVER
        self.watched = watched
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
        found = [
            (Place(region.region, each.generation, region.cache_ttl.total_seconds()), each.kek_id)
            for region in state.regions
            if region.state is State.ENABLED and region.health in _SERVING
            for each in region.generations
            if not each.retired and len(each.kek_id) == _ID
        ]
        places = tuple(place for place, _ in found)
        places = self._alike.setdefault(places, places)
        self._standings[state.cluster] = Standing(places, b"".join(kek_id for _, kek_id in found))

    def good(self, now: Moment) -> bool:
        """Returns whether what was told may be relied on at a moment."""
        return now.before(self.good_until)
