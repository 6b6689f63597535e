"""Verification of the log in the background, in slices, by one replica at a time (protocol A3).

Each replica verifies an entry when it polls it. Whoever changes an entry later changes nothing that
a replica does, but what people read. So one replica at a time walks the whole log, and says so
where it meets a broken link.
"""

from __future__ import annotations

import logging
from typing import Final

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.events import LogMark
from keyfold_server.service.events.alarm import LogAlarm
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

EVERY: Final = 0.5
"""Seconds between two turns."""

_SLICE: Final = 500
"""Entries that one turn verifies."""

_HOLDS: Final = 60 * 60 * 1000
"""Milliseconds from the beginning of one walk to that of the next, by whichever replica."""

_LOOKS: Final = 120
"""Turns between two looks whether it is time for a walk, while no walk is under way."""

_CLAIM: Final = "verify:log"


class LogVerification:
    """Walks the log, a slice at each turn while it is this replica's to walk."""

    def __init__(self, storage: Storage, alarm: LogAlarm) -> None:
        """Takes the store, and what tells of broken links."""
        self._storage = storage
        self._alarm = alarm
        self._at: LogMark | None = None
        self._walking = False
        self._until_look = 0

    async def turn(self) -> None:
        """Verifies the next slice, or looks whether a walk is due."""
        try:
            if self._walking:
                await self._slice()
            elif self._until_look > 0:
                self._until_look -= 1
            else:
                self._until_look = _LOOKS
                # Whoever found the log broken looks again by itself, to hear that it was mended.
                due = await self._storage.run(self._storage.store.claim, {_CLAIM: _HOLDS})
                self._at, self._walking = None, bool(due or self._alarm.broken)
        except KeyfoldError as error:
            log.warning("the log was not verified: %s", error.reason)
            self._walking = False

    async def _slice(self) -> None:
        found = await self._storage.run(self._storage.store.check_log, self._at, _SLICE)
        self._at = found.last
        if found.broken is not None:
            self._alarm.met(found.broken)
            self._walking = False
        elif found.complete:
            self._alarm.clear()
            self._walking = False
