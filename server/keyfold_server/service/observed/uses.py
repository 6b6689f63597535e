"""Uses: when each KEK was last used, on its way to the store.

Where a call takes a KEK it leaves the time there, and nothing more; once a minute those times are
collected and written. Observations, not decisions (protocol S7): what a process that dies takes
along is its last minute. Knows nothing of who used a KEK, nor for what.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.ports import Clock
from keyfold_server.service.data.cache_entries import NEVER, OpenKek
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

FLUSH: Final = 60.0
"""Seconds between two writes."""

_AT_ONCE: Final = 1_000
"""KEKs that are looked at while no call is answered: of 100,000 it would be a fifth of a second."""


class UseRecorder:
    """The last uses that the store does not have yet."""

    def __init__(self, cache: KeyCache, clock: Clock, storage: Storage) -> None:
        """Begins to hear of KEKs that leave memory."""
        self._cache = cache
        self._clock = clock
        self._storage = storage
        self._new: dict[bytes, int] = {}
        self._collected = NEVER
        cache.record_use = self._record

    async def flush(self) -> None:
        """Writes which KEKs were used since the last time, and when.

        Raises:
            KeyfoldError: The store did not take it; it is written the next time.
        """
        now = self._clock.monotonic()
        opened = list(self._cache.opened())
        for first in range(0, len(opened), _AT_ONCE):
            # One that is used, or leaves, between two parts is collected all the same: by its time.
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

    async def known(self, cluster: str, kek_ids: Collection[bytes]) -> dict[bytes, int]:
        """Returns when a cluster's KEKs were last used, in milliseconds of Unix time.

        As far as the store and this replica know; a store that does not answer fails nobody.
        """
        try:
            known = await self._storage.run(self._storage.store.last_uses, list(kek_ids))
        except KeyfoldError as error:
            log.warning("the store does not tell last uses: %s", error.reason)
            known = {}
        view = self._cache.peek(cluster)
        opened = view.open if view is not None else {}
        for kek_id in kek_ids:
            here = [self._new.get(kek_id, 0)]
            if kek_id in opened and opened[kek_id].used_at > NEVER:
                here.append(self._time(opened[kek_id]))
            latest = max(known.get(kek_id, 0), *here)
            if latest:
                known[kek_id] = latest
        return known

    def _record(self, opened: OpenKek) -> None:
        if opened.used_at > self._collected:
            kek_id = opened.kek.kek_id
            self._new[kek_id] = max(self._time(opened), self._new.get(kek_id, 0))

    def _time(self, opened: OpenKek) -> int:
        """Returns when a KEK was last used; memory counts by the clock that never goes back."""
        ago = self._clock.monotonic() - opened.used_at
        return int((self._clock.wall() - ago) * 1000)
