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

from keyfold_server.domain.errors import KeyfoldError, RefusedError
from keyfold_server.domain.health import Observation
from keyfold_server.domain.ports import Clock
from keyfold_server.service.data.cache_entries import NEVER, CachedKek, ClusterView, RootState
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.tasks import Tasks

ANNOUNCE_AGAIN: Final = 30.0
"""Seconds from a root key's last announcement to the next one of a refusal that was met again."""

HASTENED: Final = 2.0
"""Seconds from a root key's last announcement to the next one where somebody asked about it."""

AnnounceRefusal = Callable[[str, Observation, bytes | None], asyncio.Task[int]]
"""Announces a refusal to the other replicas, through the store.

Called with the root key id, what was observed, and None for a refusal of the root key, or else the
kek_id of the one KEK that was refused again. Returns a task that ends with the number of the entry
of the log by which the others learn of it.
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
        prove: Callable[[CachedKek], asyncio.Task[CachedKek | KeyfoldError | None] | None],
        tasks: Tasks,
    ) -> None:
        """Joins the announcements to memory.

        Args:
            cache: Root keys and the KEKs under them.
            clock: Monotonic time.
            announce: Announces a refusal to the other replicas.
            prove: Starts an unwrap of exactly this KEK, or returns None if it left memory.
            tasks: The running tasks of the service.
        """
        self._cache = cache
        self._clock = clock
        self._announce = announce
        self._prove = prove
        self._tasks = tasks
        self._last: dict[str, float] = {}
        self._told: dict[str, asyncio.Task[int]] = {}
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

    async def told(self, root_id: str) -> int | None:
        """Waits until the store has every refusal of a root key that this replica has met.

        What waits for the root key's turn gets one `HASTENED` after its last announcement, because
        somebody asked.

        Returns:
            The number of the entry by which the others learn of the last one; None: this replica
            has told none lately.
        """
        if root_id in self._waiting:
            left = self._last.get(root_id, NEVER) + HASTENED - self._clock.monotonic()
            if left > 0:
                await asyncio.sleep(left)
        if root_id in self._waiting:
            self._last.pop(root_id, None)
            self._take_turn(root_id)
        task = self._told.get(root_id)
        return None if task is None else await asyncio.shield(task)

    def run_due(self) -> None:
        """Announces what is due."""
        for root_id in list(self._waiting):
            self._take_turn(root_id)

    def close(self) -> None:
        """Announces at once what still waits, as the replica stops."""
        for root_id, waiting in self._waiting.items():
            refused = [each for each in waiting.values() if each.kek_id in each.view.refused]
            if refused:
                self._tell(root_id, refused[0].observation, None)
        self._waiting.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _take_turn(self, root_id: str) -> None:
        """Announces a root key's oldest repetition if it is time, and sets a timer for the next."""
        left = self._last.get(root_id, NEVER) + ANNOUNCE_AGAIN - self._clock.monotonic()
        waiting = self._waiting.get(root_id, {})
        while left <= 0 and waiting:
            repetition = waiting.pop(next(iter(waiting)))
            # Otherwise its own unwrap has succeeded since.
            if repetition.kek_id in repetition.view.refused:
                left = ANNOUNCE_AGAIN
                self._tell_again(root_id, repetition)
        if timer := self._timers.pop(root_id, None):
            timer.cancel()
        if waiting:
            loop = asyncio.get_running_loop()
            self._timers[root_id] = loop.call_later(left, self._take_turn, root_id)
        else:
            self._waiting.pop(root_id, None)

    def _tell_again(self, root_id: str, repetition: _Repetition) -> None:
        root = self._cache.known_root(root_id)
        other = next(iter(root.open), None) if root is not None else None
        if other is None:
            # Nothing here shows that the root key opens any KEK, so this concerns them all (F2b).
            self._forget(root_id)
            self._tell(root_id, repetition.observation, None)
        else:
            self._last[root_id] = self._clock.monotonic()
            self._tasks.start(self._tell_apart(other, repetition))

    async def _tell_apart(self, other: CachedKek, repetition: _Repetition) -> None:
        """Announces a repetition as what it is, while another KEK under its root key is open.

        The customer's policy may condemn the refused KEK alone (F4), or the root key may be refused
        again (F2b). Only the other KEK's own unwrap shows which.
        """
        root = other.root
        proof = self._prove(other)
        outcome = None if proof is None else await asyncio.shield(proof)
        if isinstance(outcome, CachedKek):
            self._tell(root.root_id, repetition.observation, repetition.kek_id)
        elif not isinstance(outcome, RefusedError):
            # Nobody knows, so it counts as a refusal of the root key. A refusal of the other KEK
            # was a first one, and is told already.
            self._cache.drop_root(root)
            self._tell(root.root_id, repetition.observation, None)

    def _tell(self, root_id: str, observation: Observation, kek_id: bytes | None) -> None:
        now = self._clock.monotonic()
        self._last = {r: at for r, at in self._last.items() if now - at < ANNOUNCE_AGAIN}
        self._told = {r: task for r, task in self._told.items() if r in self._last}
        self._last[root_id] = now
        self._told[root_id] = self._announce(root_id, observation, kek_id)

    def _forget(self, root_id: str) -> None:
        if root_id in self._waiting:
            self._waiting[root_id].clear()
