"""KMS failures: what a KMS's refusal, or its silence, means for the KEKs in memory.

A refusal drops every KEK under its root key on this replica, and is announced to the others
(protocol F2). A KEK that the KMS refuses because of its own context does so only once, however
often it is refused (protocol F4). This module calls no KMS.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

from keyfold_server import telemetry
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
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.timing import Timing
from keyfold_server.service.data.cache_entries import (
    ClusterView,
    Refusal,
    RegionView,
    RootState,
)
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.loading.announcements import Announcements
from keyfold_server.service.loading.reads import Reads
from keyfold_server.service.observed.health import HealthRecorder

log = logging.getLogger(__name__)

REREAD_TIMEOUT: Final = 2.0
"""Seconds to wait for the store's answer whether a refused key's row was changed meanwhile."""

_BACKOFF: Final = (0.5, 5.0)
"""Seconds of the first and the longest pause before a KMS that gave no answer is called again."""

_LONGEST_HINT: Final = 30.0
"""Longest pause in seconds that a throttling KMS gets, even if it asks for more."""


class KmsFailures:
    """Handles loads that brought no key: refusals, mismatches and outages."""

    def __init__(
        self,
        cache: KeyCache,
        reads: Reads,
        health: HealthRecorder,
        clock: Clock,
        timing: Timing,
        announcements: Announcements,
        schedule: Callable[[RootState, float], None],
    ) -> None:
        """Joins the handling of failures to memory and store.

        Args:
            cache: Root keys and the KEKs under them.
            reads: Reads what the store has now.
            health: Records what was observed.
            clock: Monotonic time.
            timing: The service's time spans.
            announcements: Announces refusals to the other replicas.
            schedule: Schedules the keeper's next look at a root key, in monotonic seconds.
        """
        self._cache = cache
        self._reads = reads
        self._health = health
        self._clock = clock
        self._timing = timing
        self._announcements = announcements
        self._schedule = schedule

    async def refused(
        self,
        view: ClusterView,
        region: RegionView,
        generation: Generation,
        error: RefusedError | KekMismatchError,
    ) -> KeyfoldError | None:
        """Applies a refusal or mismatch, unless the row was changed meanwhile (protocol F3).

        Args:
            view: The view under which the KMS was called.
            region: The KEK's region.
            generation: The KEK that the KMS did not open.
            error: The KMS's answer.

        Returns:
            The error with its place; None: the row was changed, and the call must look again.
        """
        name = view.cluster.name
        try:
            current = await self._reads.now(name, REREAD_TIMEOUT)
        except (KeyfoldError, TimeoutError):
            # The store cannot say that the row changed, so the refusal stands: fail closed.
            current = view.cluster
        if not self._cache.holds(view) or current is None:
            return None
        if current.version != view.cluster.version or current.uid != view.cluster.uid:
            return None
        error = error.at(cluster=name, region=region.region.name)
        root = self._cache.root(generation.current.root_id)
        until = self._clock.monotonic() + self._timing.refusal_memory
        repeated = generation.kek_id in view.refused
        view.refused[generation.kek_id] = Refusal(error, until)
        self._cache.drop_kek(view, generation.kek_id)
        observation = self._health.failed(region.region.name, generation, error)
        if isinstance(error, RefusedError) and not repeated:
            # Once per KEK: one that is refused because of its own context must not flush the
            # others again and again (protocol F4).
            log.warning("the KMS refuses %s/%s: %s", name, region.region.name, error.reason)
            self._cache.drop_root(root)
        if isinstance(error, RefusedError):
            if repeated or root.refusal_announced:
                self._announcements.again(root, view, generation.kek_id, observation)
            else:
                root.refusal_announced = True
                self._announcements.first(root, observation)
        return error

    def not_asked(
        self, root: RootState, generation: Generation, began: float, error: NotAsked
    ) -> None:
        """Remembers that Keyfold's own limits kept a refresh from the KMS (protocol F8).

        It says nothing about the key, and nothing about the KMS: it gives no grace.

        Args:
            root: The state of the root key, which is in use.
            generation: The KEK that was to be unwrapped.
            began: When the refresh began, monotonic seconds. After a later proof nothing changes.
            error: The limit.
        """
        wrap = generation.current
        telemetry.REFRESHES_NOT_ASKED.labels(wrap.root.type, error.reason).inc()
        if root.proof >= began:
            return
        if root.not_asked is None:
            log.warning("%s was not asked: %s: %s", wrap.root.uri, error.reason, error.message)
        first, longest = _BACKOFF
        root.not_asked = error
        root.not_asked_until = self._clock.monotonic() + min(
            longest, max(first, error.retry_after or 0.0)
        )
        self._schedule(root, root.not_asked_until)

    def could_not_tell(
        self,
        root: RootState,
        region: str,
        generation: Generation,
        began: float,
        error: CouldNotTellError,
    ) -> None:
        """Remembers that a KMS could not be asked, and when to call it again (protocol W2).

        Args:
            root: The root key's state.
            region: The KEK's region.
            generation: The KEK that was to be unwrapped.
            began: When the unwrap began, monotonic seconds. After a later proof nothing changes.
            error: Why the KMS gave no answer.
        """
        if root.proof >= began:
            return
        self._health.failed(region, generation, error)
        if root.unknown is None or root.unknown.reason != error.reason:
            # An error if Keyfold's own credential failed: only the operator can renew it (F2a).
            level = logging.ERROR if isinstance(error, CredentialsFailedError) else logging.WARNING
            key = generation.current.root.uri
            log.log(level, "%s could not be asked: %s: %s", key, error.reason, error.message)
        first, longest = _BACKOFF
        pause = min(longest, first * 2**root.failures) * random.uniform(0.75, 1.0)  # noqa: S311
        if isinstance(error, ThrottledError) and error.retry_after is not None:
            pause = min(max(error.retry_after, first), _LONGEST_HINT)
        root.failures = min(root.failures + 1, 10)
        root.unknown = error
        root.not_asked = None
        root.unknown_until = self._clock.monotonic() + pause
        self._schedule(root, root.unknown_until)
