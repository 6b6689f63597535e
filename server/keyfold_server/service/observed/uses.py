"""The use recorder: collects when each KEK was last used, and writes that to the store.

A call only stores the time in the open KEK. Once a minute the recorder collects those times and
writes them. They are observations, not decisions (protocol S7): a process that dies loses its
last minute. The recorder does not know who used a KEK, nor for what.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Final

from keyfold_server.domain.ports import Clock
from keyfold_server.service.data.cache_entries import NEVER, CachedKek
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.storage import Storage

FLUSH: Final = 60.0
"""Seconds between two writes to the store."""

_AT_ONCE: Final = 1_000
"""KEKs collected before calls get a turn. Collecting 100,000 at once would take 0.2 seconds."""

_MOST: Final = 200_000
"""Most last uses that wait for a store that does not take them; then the oldest go."""


class UseRecorder:
    """The last uses of KEKs that the store does not have yet."""

    def __init__(self, cache: KeyCache, clock: Clock, storage: Storage) -> None:
        """Registers with the cache, which reports each KEK that leaves memory."""
        self._cache = cache
        self._clock = clock
        self._storage = storage
        self._new: dict[bytes, int] = {}
        self._collected = NEVER
        cache.record_use = self._record

    async def flush(self) -> None:
        """Writes when KEKs were last used, for those used since the last write.

        Raises:
            KeyfoldError: The store did not take it; the next flush writes it.
        """
        now = self._clock.monotonic()
        opened = list(self._cache.opened())
        for first in range(0, len(opened), _AT_ONCE):
            # No use between two parts is lost: the cache reports a KEK that leaves memory, and
            # the next flush collects every use after this one began.
            for each in opened[first : first + _AT_ONCE]:
                self._record(each)
            await asyncio.sleep(0)
        self._collected = now
        taken = dict(self._new)
        if taken:
            await self._storage.run(self._storage.store.used, taken)
        for kek_id, time in taken.items():
            if self._new.get(kek_id) == time:
                del self._new[kek_id]

    def combined(
        self, stored: Mapping[bytes, int], kek_ids: Mapping[str, Collection[bytes]]
    ) -> dict[bytes, int]:
        """Returns when KEKs were last used, by kek_id, in milliseconds of Unix time.

        KEKs without a known use are left out.

        Args:
            stored: What the store knows, by kek_id.
            kek_ids: The KEKs, by the names of their clusters.
        """
        known = dict(stored)
        for cluster, some in kek_ids.items():
            view = self._cache.peek(cluster)
            opened = view.open if view is not None else {}
            for kek_id in some:
                latest = max(known.get(kek_id, 0), self._new.get(kek_id, 0))
                if kek_id in opened and opened[kek_id].used_at > NEVER:
                    latest = max(latest, self._time(opened[kek_id]))
                if latest:
                    known[kek_id] = latest
        return known

    def _record(self, opened: CachedKek) -> None:
        """Buffers a KEK's last use, if it came after the last flush began."""
        if opened.used_at > self._collected:
            kek_id = opened.kek.kek_id
            # A later use goes to the end, so that the first one is the oldest.
            self._new[kek_id] = max(self._time(opened), self._new.pop(kek_id, 0))
            if len(self._new) > _MOST:
                del self._new[next(iter(self._new))]

    def _time(self, opened: CachedKek) -> int:
        """Returns a KEK's last use, kept in monotonic seconds, in milliseconds of Unix time."""
        ago = self._clock.monotonic() - opened.used_at
        return int((self._clock.wall() - ago) * 1000)
