"""Freshness: refreshes root keys in use before their proofs expire, and drops expired KEKs.

The keeper is a queue of when to look at which root key. `loads` calls the KMS and handles its
answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
from collections.abc import Callable
from typing import Final

from keyfold_server.domain.ports import Clock
from keyfold_server.service.data.cache_entries import CachedKek, RootState
from keyfold_server.service.data.key_cache import KeyCache

REFRESH_AT: Final = 0.8
"""Part of the TTL after which a root key in use is refreshed. Up to a tenth of it is taken off."""


class Freshness:
    """The keeper of root keys: looks at each when it is due."""

    def __init__(
        self, cache: KeyCache, clock: Clock, patience: float, refresh: Callable[[CachedKek], None]
    ) -> None:
        """Joins the queue to memory.

        Args:
            cache: Root keys and the KEKs under them.
            clock: Monotonic time.
            patience: Seconds after which a refresh has surely ended.
            refresh: Starts a load that proves a KEK's root key.
        """
        self._cache = cache
        self._clock = clock
        self._patience = patience
        self._refresh = refresh
        self._due: list[tuple[float, str]] = []
        self._earlier = asyncio.Event()

    async def turn(self) -> None:
        """Waits until a root key is due, or an appointment changes, and looks at all due ones."""
        now = self._clock.monotonic()
        pause = self._due[0][0] - now if self._due else 60.0
        if pause > 0:
            self._earlier.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._earlier.wait(), pause)
        self.run_due(self._clock.monotonic())

    def run_due(self, now: float) -> None:
        """Looks at every root key that is due at a time, in monotonic seconds."""
        while self._due and self._due[0][0] <= now:
            due, root_id = heapq.heappop(self._due)
            root = self._cache.known_root(root_id)
            if root is not None and root.due == due:
                self._look_at(root, now)

    def _look_at(self, root: RootState, now: float) -> None:
        used, root.used = root.used, None
        if used is not None:
            # A load that brings an answer schedules the next look itself. One that is overtaken
            # or turned away does not, and other KEKs are under this root key.
            self.schedule(root, now + self._patience)
            self._refresh(used)
            return
        # No call used it: it stays until its last grace ends, in case of an outage.
        ends = root.proof + max((o.ttl + o.grace for o in root.open), default=0.0)
        if ends > now:
            self.schedule(root, ends)
        else:
            self._cache.close_root(root)
            if root.unknown_until <= now:
                self._cache.forget_root(root)
            else:
                self.schedule(root, root.unknown_until)

    def grace_ends(self, cluster: str, kek_id: bytes) -> float | None:
        """Returns when a KEK's grace ends if its KMS cannot be asked from now on (protocol F1).

        Returns:
            Monotonic seconds, or None if the KEK is not in memory.
        """
        view = self._cache.peek(cluster)
        opened = view.open.get(kek_id) if view is not None else None
        return None if opened is None else opened.root.proof + opened.ttl + opened.grace

    def schedule_refresh(self, root: RootState) -> None:
        """Schedules the refresh of a root key that was just proven."""
        ttl = root.shortest if root.open else 0.0
        self.schedule(root, root.proof + ttl * REFRESH_AT * random.uniform(0.9, 1.0))  # noqa: S311

    def schedule(self, root: RootState, due: float) -> None:
        """Schedules the next look at a root key, in place of an earlier appointment.

        Args:
            root: The root key.
            due: When to look, monotonic seconds.
        """
        root.due = due
        if not self._due or due < self._due[0][0]:
            self._earlier.set()
        heapq.heappush(self._due, (due, root.root_id))
