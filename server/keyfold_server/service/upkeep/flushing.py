"""Flushing: writes what this replica has observed to the store, now and then."""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.observed.usage import UsageRecorder
from keyfold_server.service.observed.uses import UseRecorder

log = logging.getLogger(__name__)

WRITE_HEALTH: Final = 2.0
"""Seconds between two writes of what was observed of keys."""


class Flushing:
    """Writes observations of keys, the last uses of KEKs, and counts of uses."""

    def __init__(self, health: HealthRecorder, uses: UseRecorder, usage: UsageRecorder) -> None:
        """Takes the buffers that it empties."""
        self._health = health
        self._uses = uses
        self._usage = usage

    async def write_health(self) -> None:
        """Writes observations of keys, if there are new ones and the store takes them."""
        if self._health.pending:
            try:
                await self._health.flush()
            except KeyfoldError as error:
                log.warning("observations wait for the store: %s", error.reason)

    async def write_uses(self) -> None:
        """Writes the last uses of KEKs, if the store takes them."""
        try:
            await self._uses.flush()
        except KeyfoldError as error:
            log.warning("last uses wait for the store: %s", error.reason)

    async def write_usage(self) -> None:
        """Writes counts of uses, if the store takes them."""
        try:
            await self._usage.flush()
        except KeyfoldError as error:
            log.warning("counts of uses wait for the store: %s", error.reason)

    async def flush(self) -> None:
        """Writes everything once more before the replica stops, if the store takes it."""
        for flush in (self._health.flush, self._uses.flush, self._usage.flush):
            with contextlib.suppress(KeyfoldError):
                await flush()
