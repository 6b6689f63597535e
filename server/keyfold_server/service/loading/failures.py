"""Answers: what a customer's KMS's no, or its silence, means for the KEKs that are in memory.

Invariant: a refusal drops every KEK under its root key here and is told to the other replicas
(protocol F2); one KEK that its own context condemns does so once, however often it is refused
(protocol F4). Asks no KMS itself.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

from keyfold_server.domain.cluster import Generation
from keyfold_server.domain.errors import (
    CouldNotTellError,
    CredentialsFailedError,
    KekMismatchError,
    KeyfoldError,
    NotAsked,
    RefusedError,
    ThrottledError,
)
from keyfold_server.domain.health import Observation
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.timing import Timing
from keyfold_server.service.data.cache_entries import (
    NEVER,
    ClusterView,
    Refusal,
    RegionView,
    RootState,
)
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.loading.reads import Reads
from keyfold_server.service.observed.health import HealthRecorder

log = logging.getLogger(__name__)

REREAD_TIMEOUT: Final = 2.0
"""Seconds that the store has to say whether a refused key's row was changed meanwhile."""

ANNOUNCE_AGAIN: Final = 30.0
"""Seconds from telling of a root key's refusal to telling again that a KEK of it is refused."""

_BACKOFF: Final = (0.5, 5.0)
"""First and longest pause, in seconds, before a KMS that could not be asked is asked again."""

_LONGEST_HINT: Final = 30.0
"""Seconds; a KMS that asks for a longer pause is asked earlier all the same."""

AnnounceRefusal = Callable[[str, Observation, bytes | None], None]
"""Tells the other replicas, through the store, that a root key was refused; where they were told
before, that it was for this one KEK."""


class KmsFailures:
    """Takes what a KMS answered instead of a key."""

    def __init__(
        self,
        cache: KeyCache,
        reads: Reads,
        health: HealthRecorder,
        clock: Clock,
        timing: Timing,
        announce: AnnounceRefusal,
        schedule: Callable[[RootState, float], None],
    ) -> None:
        """Joins the answers to memory and store.

        Args:
            cache: Root keys and the KEKs under them.
            reads: Says what the store has now.
            health: Told of what was seen.
            clock: Monotonic time.
            timing: The spans.
            announce: Tells the other replicas.
            schedule: Has a root key looked at again at a time.
        """
        self._cache = cache
        self._reads = reads
        self._health = health
        self._clock = clock
        self._timing = timing
        self._announce_to_others = announce
        self._schedule = schedule
        self._announced: dict[str, float] = {}

    async def refused(
        self,
        view: ClusterView,
        region: RegionView,
        generation: Generation,
        error: RefusedError | KekMismatchError,
    ) -> KeyfoldError | None:
        """Takes a refusal for what it is, unless the row was changed meanwhile (protocol F3)."""
        name = view.cluster.name
        try:
            current = await self._reads.now(name, REREAD_TIMEOUT)
        except (KeyfoldError, TimeoutError):
            # The store cannot say that the row changed, so the KMS's no stands: closed, not open.
            current = view.cluster
        if not self._cache.holds(view) or current is None:
            return None
        if current.version != view.cluster.version or current.uid != view.cluster.uid:
            return None
        error = error.at(cluster=name, region=region.region.name)
        root = self._cache.root(generation.current.root_id)
        until = self._clock.monotonic() + self._timing.refusal_memory
        known = generation.kek_id in view.refused
        view.refused[generation.kek_id] = Refusal(error, until)
        self._cache.drop_kek(view, generation.kek_id)
        observation = self._health.failed(generation, error)
        if isinstance(error, RefusedError) and not known:
            # Once for each KEK: one that its own context condemns must not flush the others
            # again and again (protocol F4).
            log.warning("the KMS refuses %s/%s: %s", name, region.region.name, error.reason)
            self._cache.drop_root(root)
            if not root.refusal_announced:
                root.refusal_announced = True
                self._announce(root, observation, None)
        if isinstance(error, RefusedError):
            self._announce(root, observation, generation.kek_id)
        return error

    def _announce(
        self, root: RootState, observation: Observation, repeated_kek: bytes | None
    ) -> None:
        """Tells the others of a refusal; again only now and then.

        Whoever was told may have opened the KEK since, and not be able to ask now. Nobody here
        knows of that: proofs are not told. What those who hear it make of it is `Loads`'s.
        """
        now = self._clock.monotonic()
        if (
            repeated_kek is not None
            and now - self._announced.get(root.root_id, NEVER) < ANNOUNCE_AGAIN
        ):
            return
        self._announced = {r: at for r, at in self._announced.items() if now - at < ANNOUNCE_AGAIN}
        self._announced[root.root_id] = now
        self._announce_to_others(root.root_id, observation, repeated_kek)

    def could_not_tell(
        self,
        root: RootState,
        generation: Generation,
        began: float,
        error: CouldNotTellError | NotAsked,
    ) -> None:
        """Remembers that a KMS could not be asked, and when to ask again (protocol W2).

        A call that its account's other calls kept waiting at the gate until its time was up was
        as little asked as one that hung: its root key's KEKs have their grace too.
        """
        if root.proof >= began:
            return
        if isinstance(error, CouldNotTellError):
            self._health.failed(generation, error)
        if root.unknown is None or root.unknown.reason != error.reason:
            # Loudly where it is Keyfold's own credential: nobody else will renew it (F2a).
            level = logging.ERROR if isinstance(error, CredentialsFailedError) else logging.WARNING
            key = generation.current.root.uri
            log.log(level, "%s could not be asked: %s: %s", key, error.reason, error.message)
        first, longest = _BACKOFF
        pause = min(longest, first * 2**root.failures) * random.uniform(0.75, 1.0)  # noqa: S311
        if isinstance(error, ThrottledError) and error.retry_after is not None:
            pause = min(max(error.retry_after, first), _LONGEST_HINT)
        root.failures = min(root.failures + 1, 10)
        root.unknown = error
        root.unknown_until = self._clock.monotonic() + pause
        self._schedule(root, root.unknown_until)
