"""Changes: how this replica learns of what others did, and knows that it may go on.

A poll is a heartbeat write and a read of the numbered changes since the last one (protocol S2).
It has a thread and a connection of its own, so that a hung pool cannot make a healthy replica
stale (W3). What it reports as applied, it has dropped from memory before (R4).
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

from keyfold_server.domain.errors import (
    KeyfoldError,
    StoreRolledBackError,
    StoreStaleError,
)
from keyfold_server.domain.ports import Clock, Heartbeat, Noted, Notifies, Store
from keyfold_server.service.loads import Loads
from keyfold_server.service.storage import Storage
from keyfold_server.service.timing import Timing

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


@dataclass(frozen=True, slots=True)
class _Seen:
    """When the last good poll began, by both clocks."""

    monotonic: float
    wall: float


class Changes:
    """Follows the store's changes.

    Attributes:
        replica: This replica's name: host, process and a random part; no two share one (S4).
    """

    def __init__(self, storage: Storage, loads: Loads, clock: Clock, timing: Timing) -> None:
        """Prepares to follow; `start` begins."""
        self.replica = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._storage = storage
        self._store: Store = storage.store
        self._loads = loads
        self._clock = clock
        self._timing = timing
        self._applied = (0, b"")
        self._applied_here: dict[int, bytes] = {}
        self._seen = _Seen(float("-inf"), float("-inf"))
        self._rolled_back = False
        self._failing = False
        self._stop = threading.Event()
        self._soon = threading.Event()
        self._thread: threading.Thread | None = None
        self._stop_listening: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Registers this replica, which starts from the state it will read (S4), and polls."""
        began = self._now()
        beat = await self._storage.run(self._store.register, self._beat())
        self._applied = (beat.number, beat.change_id)
        self._seen = began
        self._thread = threading.Thread(
            target=self._run, args=(asyncio.get_running_loop(),), name="changes", daemon=True
        )
        self._thread.start()
        if isinstance(self._store, Notifies):
            # A hint that makes the next poll come at once; what is promised rests on the poll.
            self._stop_listening = self._store.listen(self._soon.set)

    async def stop(self) -> None:
        """Stops polling and signs off, so that no Revoke waits for this replica."""
        self._stop.set()
        self._soon.set()
        await asyncio.to_thread(self._stop_listening)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
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
        limit = self._timing.store_max_staleness
        seen = self._seen
        if now - seen.monotonic > limit or self._clock.wall() - seen.wall > limit:
            raise StoreStaleError(
                f"this replica has not seen the store for {limit:g} seconds, so it must not use "
                "keys; call another one",
                retry_after=self._timing.store_poll,
            )

    def check_store(self) -> None:
        """Refuses where the store is not the one that this replica knew.

        Raises:
            StoreRolledBackError: It lacks a change that was seen.
        """
        if self._rolled_back:
            raise StoreRolledBackError(
                "the store lacks changes that this replica has seen; find out which store is "
                "right, and restart the replica on it"
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
        now = self._now()
        return max(now.monotonic - self._seen.monotonic, now.wall - self._seen.wall)

    @property
    def newest(self) -> int:
        """The number of the last change that this replica has applied."""
        return self._applied[0]

    def applied_here(self, number: int, change_id: bytes, cluster: str) -> None:
        """Applies a change that this replica has just committed, ahead of the poll."""
        self._loads.invalidate(cluster)
        if number > self._applied[0]:
            self._applied_here[number] = change_id
        self._soon.set()

    def made_elsewhere(self, cluster: str) -> None:
        """Drops a cluster that the store shows to have changed, ahead of the poll."""
        self._loads.invalidate(cluster)
        self._soon.set()

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
            return confirmed, [Pending("unknown", self._timing.store_max_staleness)]
        for row in rows:
            if row.replica == self.replica:
                continue
            if row.applied >= number:
                confirmed.append(row.replica)
            elif row.silent_for <= row.max_staleness:
                pending.append(Pending(row.replica, row.max_staleness - row.silent_for))
        return confirmed, pending

    # The poll's own thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            self._soon.wait(self._timing.store_poll)
            self._soon.clear()
            if self._stop.is_set() or loop.is_closed():
                return
            began = self._now()
            ours = dict(self._applied_here)
            try:
                noted = self._store.poll(self._beat())
            except StoreRolledBackError:
                loop.call_soon_threadsafe(self._lost)
            except KeyfoldError as error:
                if not self._failing:
                    log.warning("cannot see the store: %s: %s", error.reason, error.message)
                self._failing = True
                # A store that fails at once must not be asked as fast as it answers.
                self._stop.wait(self._timing.store_poll)
            except Exception:
                log.exception("the poll failed unexpectedly")
                self._stop.wait(self._timing.store_poll)
            else:
                if self._failing:
                    log.warning("the store is seen again")
                self._failing = False
                applied = threading.Event()
                loop.call_soon_threadsafe(self._apply, noted, ours, began, applied)
                # The next beat must not be sent before these changes are applied.
                applied.wait(self._timing.store_max_staleness)

    def _beat(self) -> Heartbeat:
        number, change_id = self._applied
        return Heartbeat(
            self.replica,
            number,
            change_id,
            self._timing.store_max_staleness,
            int(self._clock.wall() * 1000),
        )

    def _now(self) -> _Seen:
        return _Seen(self._clock.monotonic(), self._clock.wall())

    # Back on the loop

    def _apply(
        self,
        noted: Sequence[Noted],
        ours: Mapping[int, bytes],
        began: _Seen,
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
            self._lost()
            applied.set()
            return
        for change in noted:
            if self._applied_here.pop(change.number, None) is not None:
                continue
            if change.cluster is not None:
                self._loads.invalidate(change.cluster)
            elif change.root is not None and change.replica != self.replica:
                self._loads.root_refused(change.root)
        if noted:
            self._applied = (noted[-1].number, noted[-1].change_id)
            self._soon.set()
        self._seen = began
        applied.set()

    def _lost(self) -> None:
        """Drops everything: the store is another one than it was (S1)."""
        if not self._rolled_back:
            log.error("the store lacks changes that this replica has seen; it refuses from now on")
        self._rolled_back = True
        self._loads.drop_all()
