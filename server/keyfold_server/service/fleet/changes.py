"""Changes: how this replica applies what other replicas changed, and whether it may go on.

Invariant: a replica reports a change as applied only after it has dropped what changed from memory
(protocol R4). The thread that reads the store is `poll`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from keyfold_server.domain.bans import CommittedBan
from keyfold_server.domain.errors import KeyfoldError, StoreRolledBackError, StoreStaleError
from keyfold_server.domain.log import Entry, EntryKind, Position
from keyfold_server.domain.ports import Clock, Heartbeat, Notifies, Store
from keyfold_server.domain.timing import Timing
from keyfold_server.service.fleet.poll import Poll
from keyfold_server.service.fleet.staleness import NEVER, Moment, Staleness
from keyfold_server.service.loading.loads import Loads
from keyfold_server.service.storage import Storage
from keyfold_server.service.supervisor import Watched
from keyfold_server.service.tasks import Tasks

log = logging.getLogger(__name__)


def replica_name() -> str:
    """Returns a name for this replica: host, process and a random part; no two share one (S4)."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Audience(Protocol):
    """Whoever wants to hear of changes, on the event loop. No method of it may raise."""

    def begin(self, applied: Position) -> None:
        """Hears that this replica follows the log from an entry on."""
        ...

    def changed(self, cluster: str) -> None:
        """Hears of a change that this replica has committed, ahead of the poll."""
        ...

    def apply(self, noted: Sequence[Entry]) -> None:
        """Hears of entries that this replica has applied, which follow the last ones."""
        ...

    def fresh(self, began: Moment) -> None:
        """Hears that this replica has applied all that the store had at a moment."""
        ...

    def lose(self, error: KeyfoldError) -> None:
        """Hears that this replica no longer follows the log, and why."""
        ...


class Changes:
    """Follows the changes in the store.

    Attributes:
        replica: This replica's name.
        staleness: The measure of how long ago this replica saw the store.
        rolled_back: Whether the store lacks a change that this replica has seen, and no operator
            has reconciled it yet.
        poll: The thread that reads the store.
    """

    def __init__(
        self,
        me: Heartbeat,
        storage: Storage,
        loads: Loads,
        clock: Clock,
        timing: Timing,
        tasks: Tasks,
        watched: Watched,
        audience: Audience,
    ) -> None:
        """Prepares to follow the store; `start` begins.

        Args:
            me: The heartbeat of this replica before its first one: its name, its staleness, and
                what it serves.
            storage: The store.
            loads: Drops KEKs from memory.
            clock: Time.
            timing: The time between polls, and the longest time without the store.
            tasks: The changes of this replica that are under way.
            watched: Watches the poll.
            audience: Hears of each change once this replica has applied it.
        """
        self._audience = audience
        self._me = me
        self.replica = me.replica
        self.staleness = Staleness(clock, timing)
        self._storage = storage
        self._store: Store = storage.store
        self._loads = loads
        self._clock = clock
        self._timing = timing
        self._tasks = tasks
        self._applied = (0, b"")
        self._applied_here: dict[int, bytes] = {}
        self.rolled_back = False
        self.poll = Poll(storage, clock, timing, self, watched)
        self._stop_listening: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Registers this replica, which starts from the state it then reads (S4), and polls."""
        began = Moment.now(self._clock)
        beat = await self._storage.run(self._store.register, self.beat())
        self._applied = (beat.number, beat.entry_id)
        self._audience.begin(Position(beat.number, beat.entry_id))
        self._audience.fresh(began)
        self.staleness.last_poll = began
        self.poll.start(asyncio.get_running_loop())
        if isinstance(self._store, Notifies):
            # Only a hint, which makes the next poll come at once: the promises rest on the poll.
            self._stop_listening = self._store.listen(self.poll.soon.set)

    async def stop(self) -> None:
        """Stops polling and signs off, so that no Revoke waits for this replica."""
        self.poll.stop()
        await asyncio.to_thread(self._stop_listening)
        await asyncio.to_thread(self.poll.join)
        try:
            await self._storage.run(self._store.leave, self.replica)
        except KeyfoldError as error:
            log.warning("the store did not take the sign-off: %s", error.reason)

    def check_serving(self, now: float) -> None:
        """Refuses if this replica must not use keys; every use of a key calls it (S3).

        Args:
            now: Monotonic seconds.

        Raises:
            StoreRolledBackError: The store lacks a change that this replica has seen.
            StoreStaleError: This replica has not seen the store for too long.
        """
        if self.rolled_back:
            self.check_store()
        self.staleness.check(now)

    def check_store(self) -> None:
        """Refuses if the store is not the one that this replica knew.

        Raises:
            StoreRolledBackError: The store lacks a change that this replica has seen.
        """
        if self.rolled_back:
            raise _rolled_back()

    def banned_here(self, ban: CommittedBan, cluster: str) -> None:
        """Applies a ban that this replica has just committed or found, ahead of the poll."""
        self._loads.distrust(cluster)
        self._audience.changed(cluster)
        if ban.repeated:
            # If another replica banned it, this one may not have read of it yet.
            self.poll.soon.set()
        elif ban.number > self._applied[0]:
            self._applied_here[ban.number] = ban.entry_id

    def applied_here(self, number: int, entry_id: bytes, cluster: str) -> None:
        """Applies a change that this replica has just committed, ahead of the poll."""
        self._loads.invalidate(cluster)
        self._audience.changed(cluster)
        if number > self._applied[0]:
            self._applied_here[number] = entry_id
        # No poll is hastened: no replica waits for this one to report its own change (S12).

    def made_elsewhere(self, cluster: str) -> None:
        """Drops a cluster that another replica has changed, ahead of the poll."""
        self._loads.invalidate(cluster)
        self.poll.soon.set()

    def has_applied(self, number: int, entry_id: bytes) -> bool:
        """Says whether this replica has dropped what an entry of the store concerns."""
        return number <= self._applied[0] or self._applied_here.get(number) == entry_id

    @property
    def ours(self) -> Mapping[int, bytes]:
        """The ids, by number, of changes that this replica committed and no poll has read yet."""
        return self._applied_here

    def beat(self) -> Heartbeat:
        """Returns the heartbeat of this replica."""
        number, entry_id = self._applied
        now = int(self._clock.wall() * 1000)
        return replace(self._me, number=number, entry_id=entry_id, time=now)

    # Called by the poll, on the event loop.

    def apply(
        self,
        noted: Sequence[Entry],
        ours: Mapping[int, bytes],
        began: Moment,
        applied: threading.Event,
        *,
        complete: bool,
    ) -> None:
        """Drops what changed from memory, and only then counts it as applied (R4).

        Args:
            noted: The entries of the log since the last poll.
            ours: The changes that this replica had committed before the poll began, as `ours`
                returned them. The store must have each of them by its id: a failover may have lost
                a change, and another entry may have its number now (S1).
            began: The moment at which the poll began.
            applied: This method sets it when everything is dropped.
            complete: Whether these are all entries, and not only the first page of them (S12). Only
                a complete poll makes this replica fresh.
        """
        found = {entry.number: entry.entry_id for entry in noted}
        # The changes committed since then count as well, if the poll has read their numbers. Those
        # committed before count even if it has not, unless they are in a later page.
        since = {n: i for n, i in self._applied_here.items() if n in found}
        due = {n: i for n, i in ours.items() if complete or n <= noted[-1].number}
        if any(found.get(n) != entry_id for n, entry_id in (since | due).items()):
            self.lose(applied)
            return
        others = False
        for entry in noted:
            if self._applied_here.pop(entry.number, None) is not None or not entry.is_news:
                continue
            others = others or entry.replica != self.replica
            if entry.kind is EntryKind.BAN and entry.cluster is not None:
                self._loads.distrust(entry.cluster)
            elif entry.cluster is not None:
                self._loads.invalidate(entry.cluster)
            elif entry.root is not None and entry.replica != self.replica:
                self._loads.root_refused(entry.root, entry.kek)
        if noted:
            self._applied = (noted[-1].number, noted[-1].entry_id)
            self._audience.apply(noted)
        if others:
            # The replicas that made these changes wait for the report.
            self.poll.soon.set()
        if complete:
            self.staleness.last_poll = began
            self._audience.fresh(began)
        applied.set()

    async def begin_anew(self, why: str) -> None:
        """Drops everything, and registers with the store as a replica does that starts (S4).

        Args:
            why: The reason, for the log.
        """
        # Drop everything before asking the store again, so that a store that somebody wrote
        # cannot make this replica keep a key. Until it has registered, the replica is stale.
        self.staleness.last_poll = NEVER
        self._audience.lose(StoreStaleError(why))
        self._loads.drop_all()
        # Let the changes under way end first. They were decided on a state that the store lacks
        # now, so none of them may be committed after this.
        await self._tasks.drain()
        self._loads.drop_all()
        began = Moment.now(self._clock)
        beat = await self._storage.run(self._store.register, self.beat())
        self._applied = (beat.number, beat.entry_id)
        self._applied_here.clear()
        self._audience.begin(Position(beat.number, beat.entry_id))
        self._audience.fresh(began)
        self.staleness.last_poll = began
        self.rolled_back = False
        log.warning("this replica dropped every key and begins anew with the store: %s", why)

    def lose(self, lost: threading.Event) -> None:
        """Drops everything, because the store is not the one that it was (S1).

        Args:
            lost: This method sets it when everything is dropped.
        """
        if not self.rolled_back:
            log.error("this replica refuses from now on: the store lacks changes that it has seen")
        self.rolled_back = True
        self._audience.lose(_rolled_back())
        self._loads.drop_all()
        lost.set()


def _rolled_back() -> StoreRolledBackError:
    return StoreRolledBackError(
        "the store lacks changes that this replica has seen; find out which store is right, and "
        "have the replicas go on with it by `keyfold-server reconcile`"
    )
