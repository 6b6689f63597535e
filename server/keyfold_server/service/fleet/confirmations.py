"""Confirmations: which replicas have applied a change, and when the others stop (protocol R4)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.ports import UNKNOWN_REPLICA, Clock
from keyfold_server.domain.timing import Timing
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

_LOOK_AGAIN: Final = 0.05
"""Seconds between two looks at which replicas have confirmed a change."""


@dataclass(frozen=True, slots=True)
class PendingReplica:
    """A replica that has not confirmed a change.

    Attributes:
        replica: The replica's name.
        stops_within: Seconds after which the replica has stopped by itself.
    """

    replica: str
    stops_within: float


class Confirmations:
    """Waits until the replicas have applied a change."""

    def __init__(self, replica: str, storage: Storage, clock: Clock, timing: Timing) -> None:
        """Takes this replica's name, and the store, where the replicas say what they applied."""
        self._replica = replica
        self._storage = storage
        self._clock = clock
        self._timing = timing

    async def wait(self, number: int, ends: float) -> tuple[list[str], list[PendingReplica]]:
        """Waits until every live replica has applied a change.

        Args:
            number: The number of the change.
            ends: Monotonic seconds until which to wait.

        Returns:
            The names of the replicas that have applied it, this one first; and the other live
            replicas.
        """
        while True:
            confirmed, pending = await self._look(number)
            if not pending or self._clock.monotonic() >= ends:
                return confirmed, pending
            await asyncio.sleep(_LOOK_AGAIN)

    async def _look(self, number: int) -> tuple[list[str], list[PendingReplica]]:
        """Reads which replicas have applied a change.

        A store that does not answer leaves all other replicas pending, and raises nothing: the
        change is committed, and an error would look as if it were not.
        """
        confirmed = [self._replica]
        pending = []
        try:
            rows = await self._storage.decide(self._storage.store.replicas)
        except KeyfoldError as error:
            log.warning("the store does not say who has applied a change: %s", error.reason)
            return confirmed, [PendingReplica(UNKNOWN_REPLICA, self._timing.store_max_staleness)]
        for row in rows:
            if row.replica == self._replica:
                continue
            if row.applied >= number:
                confirmed.append(row.replica)
            elif row.silent_for <= row.max_staleness:
                pending.append(PendingReplica(row.replica, row.max_staleness - row.silent_for))
        return confirmed, pending
