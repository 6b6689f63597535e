"""Announcements: what the other replicas learn of refusals, and when (protocol F2, F2b, F4).

A replica announces a first refusal at once. It announces a refusal that it meets again, too, since
another replica may have opened a KEK meanwhile and be unable to call the KMS now. Such repetitions
are bounded for each root key, and the last one is never lost. This module calls neither the KMS nor
the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.health import Observation
from keyfold_server.domain.ports import Clock
from keyfold_server.service.data.cache_entries import NEVER, CachedKek, ClusterView, RootState
from keyfold_server.service.data.key_cache import KeyCache

ANNOUNCE_AGAIN: Final = 30.0
"""Seconds from a root key's last announcement to the next one of a refusal that was met again."""

AnnounceRefusal = Callable[[str, Observation, bytes | None], None]
"""Announces a refusal to the other replicas, through the store.

Called with the root key id, what was observed, and None for a refusal of the root key, or else the
kek_id of the one KEK that was refused again.
"""


@dataclass(frozen=True, slots=True)
class _Repetition:
    """A refusal that was met again, and that waits for its turn.

    Attributes:
        view: The view under which the KEK was refused.
        kek_id: The KEK.
        observation: The KMS's answer.
    """

    view: ClusterView
    kek_id: bytes
    observation: Observation


class Announcements:
    """Announces first refusals at once, and repeated ones every 30 seconds for each root key."""

    def __init__(
        self,
        cache: KeyCache,
        clock: Clock,
        announce: AnnounceRefusal,
        prove: Callable[[CachedKek], object],
    ) -> None:
        """Joins the announcements to memory.

        Args:
            cache: Root keys and the KEKs under them.
            clock: Monotonic time.
            announce: Announces a refusal to the other replicas.
            prove: Starts an unwrap of exactly this KEK.
        """
        self._cache = cache
        self._clock = clock
        self._announce = announce
        self._prove = prove
        self._last: dict[str, float] = {}
        self._waiting: dict[str, dict[bytes, _Repetition]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def first(self, root: RootState, observation: Observation) -> None:
        """Announces a root key's first refusal since its last proof."""
        # It says all that the waiting repetitions could say.
        self._forget(root.root_id)
        self._tell(root.root_id, observation, None)

    def again(
        self, root: RootState, view: ClusterView, kek_id: bytes, observation: Observation
    ) -> None:
        """Announces that a KEK was refused again: now, or when its root key's turn comes."""
        waiting = self._waiting.setdefault(root.root_id, {})
        waiting[kek_id] = _Repetition(view, kek_id, observation)
        self._take_turn(root.root_id)

    def run_due(self) -> None:
        """Announces what is due."""
        for root_id in list(self._waiting):
            self._take_turn(root_id)

    def close(self) -> None:
        """Announces at once what still waits, as the replica stops."""
        for root_id in list(self._waiting):
            for repetition in list(self._waiting.pop(root_id).values()):
                self._tell_again(root_id, repetition)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _take_turn(self, root_id: str) -> None:
        """Announces a root key's oldest repetition if it is time, and sets a timer for the next."""
        left = self._last.get(root_id, NEVER) + ANNOUNCE_AGAIN - self._clock.monotonic()
        waiting = self._waiting.get(root_id, {})
        while left <= 0 and waiting:
            repetition = waiting.pop(next(iter(waiting)))
            if repetition.kek_id not in repetition.view.refused:
                # Its own unwrap has succeeded since.
                continue
            left = ANNOUNCE_AGAIN
            other = self._tell_again(root_id, repetition)
            if other is not None:
                self._prove(other)
        if timer := self._timers.pop(root_id, None):
            timer.cancel()
        if waiting:
            loop = asyncio.get_running_loop()
            self._timers[root_id] = loop.call_later(left, self._take_turn, root_id)
        else:
            self._waiting.pop(root_id, None)

    def _tell_again(self, root_id: str, repetition: _Repetition) -> CachedKek | None:
        """Announces a repetition; returns another KEK under the root key that is in memory."""
        root = self._cache.known_root(root_id)
        other = next(iter(root.open), None) if root is not None else None
        if other is None:
            # Nothing here shows that the root key opens any KEK, so this concerns them all (F2b).
            self._forget(root_id)
            self._tell(root_id, repetition.observation, None)
        else:
            # Another KEK was opened since the root key's last refusal, so the customer's policy may
            # condemn this KEK alone (F4). Whoever proves the other one finds out: its refusal would
            # be a first one.
            self._tell(root_id, repetition.observation, repetition.kek_id)
        return other

    def _tell(self, root_id: str, observation: Observation, kek_id: bytes | None) -> None:
        now = self._clock.monotonic()
        self._last = {r: at for r, at in self._last.items() if now - at < ANNOUNCE_AGAIN}
        self._last[root_id] = now
        self._announce(root_id, observation, kek_id)

    def _forget(self, root_id: str) -> None:
        if root_id in self._waiting:
            self._waiting[root_id].clear()
