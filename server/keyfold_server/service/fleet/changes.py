"""Changes: how this replica learns of what others did, and knows that it may go on.

What it reports as applied, it has dropped from memory before (protocol R4). Looking at the store
is `poll`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keyfold_server.domain.changes import RecordedChange
from keyfold_server.domain.errors import (
    KeyfoldError,
    StoreRolledBackError,
    StoreStaleError,
)
from keyfold_server.domain.ports import UNKNOWN_REPLICA, Clock, Heartbeat, Notifies, Store
from keyfold_server.domain.timing import Timing
from keyfold_server.service.fleet.poll import Moment, Poll
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks

log = logging.getLogger(__name__)

_LOOK_AGAIN = 0.05
"""Seconds between two looks at who has confirmed a change."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A replica that has not confirmed a change.

    Attributes:
        replica: Its name.
        stops_within: Seconds until it will have stopped by itself.
    """

    replica: str
    stops_within: float


class Changes:
    """Follows the store's changes.

    Attributes:
        replica: This replica's name: host, process and a random part; no two share one (S4).
        rolled_back: Whether the store lacks a change that was seen, and nobody decided yet.
        poll: The thread that looks at the store.
    """

    def __init__(
        self, storage: Storage, loads: Loads, clock: Clock, timing: Timing, tasks: Tasks
    ) -> None:
        """Prepares to follow; `start` begins."""
        self.replica = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._storage = storage
        self._store: Store = storage.store
        self._loads = loads
        self._clock = clock
        self._timing = timing
        self._tasks = tasks
        self._applied = (0, b"")
        self._applied_here: dict[int, bytes] = {}
        self._seen = Moment(float("-inf"), float("-inf"))
        self.rolled_back = False
        self.poll = Poll(self._store, clock, timing, self)
        self._stop_listening: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Registers this replica, which starts from the state it will read (S4), and polls."""
        began = Moment.now(self._clock)
        beat = await self._storage.run(self._store.register, self.beat())
        self._applied = (beat.number, beat.change_id)
        self._seen = began
        self.poll.start(asyncio.get_running_loop())
        if isinstance(self._store, Notifies):
            # A hint that makes the next poll come at once; what is promised rests on the poll.
            self._stop_listening = self._store.listen(self.poll.soon.set)

    async def stop(self) -> None:
        """Stops polling and signs off, so that no Revoke waits for this replica."""
        self.poll.stop()
        await asyncio.to_thread(self._stop_listening)
        await asyncio.to_thread(self.poll.join)
        try:
            await self._storage.run(self._store.leave, self.replica)
        except KeyfoldError as error:
            log.warning("could not sign off from the store: %s", error.reason)

    def check_serving(self, now: float) -> None:
        """Refuses where this replica must not use keys; called for every use (S3).

        Args:
            now: Monotonic seconds.

        Raises:
            StoreRolledBackError: The store lacks a change that was seen.
            StoreStaleError: The last good poll began too long ago, by either clock.
        """
        self.check_store()
        self.check_fresh(now)

    def check_fresh(self, now: float) -> None:
        """Refuses where this replica has not seen the store for too long (S3).

        Args:
            now: Monotonic seconds.

        Raises:
            StoreStaleError: The last good poll began too long ago, by either clock.
        """
        limit = self._timing.store_max_staleness
        seen = self._seen
        if now - seen.monotonic > limit or self._clock.wall() - seen.wall > limit:
            raise StoreStaleError(
                f"this replica has not seen the store for {limit:g} seconds, so it does not "
                "know what holds now; call another one",
                retry_after=self._timing.store_poll,
            )

    def check_store(self) -> None:
        """Refuses where the store is not the one that this replica knew.

        Raises:
            StoreRolledBackError: It lacks a change that was seen.
        """
        if self.rolled_back:
            raise StoreRolledBackError(
                "the store lacks changes that this replica has seen; find out which store is "
                "right, and have the replicas go on with it by `keyfold-server reconcile`"
            )

    @property
    def serving(self) -> bool:
        """Whether this replica may use keys now."""
        try:
            self.check_serving(self._clock.monotonic())
        except KeyfoldError:
            return False
        return True

    def age(self) -> float:
        """Seconds since the last good look at the store began, by the slower of two clocks."""
        now = Moment.now(self._clock)
        return max(now.monotonic - self._seen.monotonic, now.wall - self._seen.wall)

    def applied_here(self, number: int, change_id: bytes, cluster: str) -> None:
        """Applies a change that this replica has just committed, ahead of the poll."""
        self._loads.invalidate(cluster)
        if number > self._applied[0]:
            self._applied_here[number] = change_id
        self.poll.soon.set()

    def made_elsewhere(self, cluster: str) -> None:
        """Drops a cluster that the store shows to have changed, ahead of the poll."""
        self._loads.invalidate(cluster)
        self.poll.soon.set()

    async def confirmations(self, number: int, ends: float) -> tuple[list[str], list[Pending]]:
        """Waits for every live replica to have applied a change (protocol R4).

        Args:
            number: The change.
            ends: Monotonic seconds until which to wait.

        Returns:
            Replicas that have dropped the keys, this one first, and those that have not said so.
        """
        while True:
            confirmed, pending = await self._who_applied(number)
            if not pending or self._clock.monotonic() >= ends:
                return confirmed, pending
            await asyncio.sleep(_LOOK_AGAIN)

    async def _who_applied(self, number: int) -> tuple[list[str], list[Pending]]:
        """Says who has applied a change; where the store does not say, all others may be behind.

        The change is committed, so this must not look like its failure.
        """
        confirmed = [self.replica]
        pending = []
        try:
            rows = await self._storage.decide(self._store.replicas)
        except KeyfoldError as error:
            log.warning("the store does not say who has applied a change: %s", error.reason)
            return confirmed, [Pending(UNKNOWN_REPLICA, self._timing.store_max_staleness)]
        for row in rows:
            if row.replica == self.replica:
                continue
            if row.applied >= number:
                confirmed.append(row.replica)
            elif row.silent_for <= row.max_staleness:
                pending.append(Pending(row.replica, row.max_staleness - row.silent_for))
        return confirmed, pending

    @property
    def ours(self) -> Mapping[int, bytes]:
        """Changes that this replica has committed and no poll has shown yet, with their ids."""
        return self._applied_here

    def beat(self) -> Heartbeat:
        """Returns what this replica says of itself."""
        number, change_id = self._applied
        return Heartbeat(
            self.replica,
            number,
            change_id,
            self._timing.store_max_staleness,
            int(self._clock.wall() * 1000),
        )

    # What a poll finds

    def apply(
        self,
        noted: Sequence[RecordedChange],
        ours: Mapping[int, bytes],
        began: Moment,
        applied: threading.Event,
    ) -> None:
        """Drops what changed, and only then counts it as applied (R4).

        Args:
            noted: The changes since the last poll.
            ours: Changes that this replica had committed before the poll began. The store must
                have each by its id: a failover may have lost one, and another one may have its
                number now (S1).
            began: When the poll began.
            applied: Told when all is dropped.
        """
        found = {change.number: change.change_id for change in noted}
        # And those committed since, as far as the poll came to their numbers.
        since = {n: i for n, i in self._applied_here.items() if n in found}
        if any(found.get(n) != change_id for n, change_id in (since | dict(ours)).items()):
            self.lose(applied)
            return
        for change in noted:
            if self._applied_here.pop(change.number, None) is not None:
                continue
            if change.cluster is not None:
                self._loads.invalidate(change.cluster)
            elif change.root is not None and change.replica != self.replica:
                self._loads.root_refused(change.root, change.kek)
        if noted:
            self._applied = (noted[-1].number, noted[-1].change_id)
            self.poll.soon.set()
        self._seen = began
        applied.set()

    async def begin_anew(self) -> None:
        """Registers with the store as it is, as a replica does that starts (S4)."""
        # A change that was decided on what the store lacks now must not be committed after this.
        await self._tasks.drain()
        self._loads.drop_all()
        began = Moment.now(self._clock)
        beat = await self._storage.run(self._store.register, self.beat())
        self._applied = (beat.number, beat.change_id)
        self._applied_here.clear()
        self._seen = began
        self.rolled_back = False
        log.warning("the store was reconciled: this replica goes on with it as it is")

    def lose(self, lost: threading.Event) -> None:
        """Drops everything: the store is another one than it was (S1).

        Args:
            lost: Told when all is dropped.
        """
        if not self.rolled_back:
            log.error("the store lacks changes that this replica has seen; it refuses from now on")
        self.rolled_back = True
        self._loads.drop_all()
        lost.set()
