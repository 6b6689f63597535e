"""Confirmations: which replicas have applied a change, and when the others stop (protocol R4)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.ports import UNKNOWN_REPLICA, Clock, ReplicaRow
from keyfold_server.domain.timing import Timing
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks

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


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A call that waits until every live replica has applied a change.

    Attributes:
        number: The number of the change.
        ends: Monotonic seconds until which it waits.
        seen: The future that gets the replicas that have applied the change, and the others.
    """

    number: int
    ends: float
    seen: asyncio.Future[tuple[list[str], list[PendingReplica]]]


class Confirmations:
    """Waits until the replicas have applied a change. One reader of the store serves all waiters.

    So waiting calls do not compete for the store: however many wait, it is read once per look.
    """

    def __init__(self, replica: str, storage: Storage, clock: Clock, timing: Timing) -> None:
        """Takes this replica's name, and the store, where the replicas say what they applied."""
        self._replica = replica
        self._storage = storage
        self._clock = clock
        self._timing = timing
        self._tasks = Tasks()
        self._waiters: list[_Waiter] = []
        self._reading = False

    async def stop(self) -> None:
        """Waits for the reader's end, which comes soon after the last waiter has gone."""
        await self._tasks.drain()

    async def wait(self, number: int, ends: float) -> tuple[list[str], list[PendingReplica]]:
        """Waits until every live replica has applied a change.

        Args:
            number: The number of the change.
            ends: Monotonic seconds until which to wait.

        Returns:
            The names of the replicas that have applied it, this one first; and the other live
            replicas.
        """
        waiter = _Waiter(number, ends, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        if not self._reading:
            self._reading = True
            self._tasks.start(self._read())
        return await waiter.seen

    async def _read(self) -> None:
        """Looks again and again, until nobody waits."""
        try:
            while True:
                # Whoever came later is served by the next look: this one may have begun before
                # their change was committed, and may not show a replica that registered since.
                waiters, self._waiters = self._waiters, []
                rows = await self._rows()
                now = self._clock.monotonic()
                self._waiters += [w for w in waiters if not self._served(w, rows, now)]
                if not self._waiters:
                    return
                await asyncio.sleep(_LOOK_AGAIN)
        finally:
            self._reading = False

    async def _rows(self) -> list[ReplicaRow] | None:
        """Reads what the replicas say; None if the store does not answer.

        Nothing is raised: the changes are committed, and an error would look as if they were not.
        """
        # In the lane, so that a flood of other changes cannot delay a Revoke's answer (R9).
        lane = self._storage.revoking(self._replica)
        try:
            return await lane.run(self._storage.store.replicas)
        except KeyfoldError as error:
            log.warning("the store does not say who has applied a change: %s", error.reason)
        except Exception:
            log.exception("reading who has applied a change failed unexpectedly")
        return None

    def _served(self, waiter: _Waiter, rows: list[ReplicaRow] | None, now: float) -> bool:
        """Answers a waiter whose wait is over, and says whether it is."""
        if waiter.seen.done():
            return True  # The caller has gone.
        confirmed, pending = self.told(waiter.number, rows)
        if pending and now < waiter.ends:
            return False
        waiter.seen.set_result((confirmed, pending))
        return True

    def told(
        self, number: int, rows: list[ReplicaRow] | None, *, mine: bool = True
    ) -> tuple[list[str], list[PendingReplica]]:
        """Returns the replicas that have applied a change, and those that may serve without it.

        Args:
            number: The number of the change.
            rows: What the replicas say. None: the store did not answer, which leaves all other
                replicas pending.
            mine: Whether this replica has made the change, or knows that it has applied it.
        """
        confirmed = [self._replica] if mine else []
        if rows is None:
            return confirmed, [PendingReplica(UNKNOWN_REPLICA, self._timing.store_max_staleness)]
        pending = []
        for row in rows:
            if mine and row.replica == self._replica:
                continue
            if row.applied >= number:
                confirmed.append(row.replica)
            elif row.lives:
                pending.append(PendingReplica(row.replica, row.stops_within))
        return confirmed, pending
