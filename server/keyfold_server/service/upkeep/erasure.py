"""Erasure: deleted regions go for good once their purge time has come (protocol D3, D4).

One replica at a time has the turn, by a row in the store. Each cluster is a transaction of its own,
which looks again whether its regions are still deleted and due, by the store's clock. If that clock
may have been set forward, the store pauses all erasing, and whoever deleted something by mistake
still has time to take it back. Then the database's files are cleared of what was erased.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.changes import Change, CommittedChange
from keyfold_server.domain.erasure import Due, ErasureTurn, erased
from keyfold_server.domain.errors import ConcurrentChangeError, KeyfoldError
from keyfold_server.domain.log import AuditEvent
from keyfold_server.domain.ports import Clock
from keyfold_server.service.fleet.changes import Changes
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

EVERY: Final = 60.0
"""Seconds between two turns of one replica."""

_HOLDS: Final = int(0.75 * EVERY * 1000)
"""Milliseconds from one turn to the next, of whichever replica. It is less than a replica's own
interval, so that a replica that asks a little early still gets its turn."""

_CLEAR_EVERY: Final = 600.0
"""Seconds between two clearings by one replica: each may hold changes up for a moment."""

ACTION: Final = "server:cluster:erase"
"""The action of an erasure's entry in the log."""


class Erasure:
    """Erases what is due."""

    def __init__(self, storage: Storage, changes: Changes, clock: Clock) -> None:
        """Takes the store, what drops erased clusters from memory, and monotonic time."""
        self._storage = storage
        self._changes = changes
        self._clock = clock
        self._failed: set[Due] = set()
        self._cleared_at: float | None = None
        self._paused = False

    async def turn(self) -> None:
        """Erases what is due, if it is this replica's turn and nothing stands in the way."""
        every, traces = _HOLDS, False
        try:
            while (turn := await self._begun(every)) is not None:
                traces = traces or turn.traces
                done = [await self._erase(due, turn.now) for due in turn.due]
                if not any(done):
                    break
                # There may be more than a turn is given. They do not wait for the next one.
                every, traces = 0, True
        except KeyfoldError as error:
            log.warning("nothing was erased: %s", error.reason)
        if traces:
            await self._clear()

    async def _begun(self, every: int) -> ErasureTurn | None:
        """Begins a turn, and shows how things stand."""
        turn = await self._storage.run(self._storage.store.erasure_turn, every)
        if turn is None:
            telemetry.ERASURES_DUE.set(0)
            telemetry.ERASURES_PAUSED.set(0)
            return None
        resumes = turn.resumes
        telemetry.ERASURES_DUE.set(turn.overdue)
        telemetry.ERASURES_PAUSED.set(0 if resumes is None else (resumes - turn.now) / 1000)
        if turn.gap is not None and resumes is not None:
            log.warning(
                "for %d minutes no server looked for what is to be erased, or the store's clock "
                "was set forward: nothing is erased before %s (%d regions are due)",
                turn.gap // 60_000,
                datetime.fromtimestamp(resumes / 1000, UTC).isoformat(timespec="seconds"),
                turn.overdue,
            )
        elif self._paused and resumes is None:
            log.info("erasing goes on")
        self._paused = resumes is not None
        return turn

    async def _erase(self, due: Due, by: int) -> bool:
        """Erases the regions of one cluster; returns whether it did."""
        detail = {"cluster": due.cluster, "regions": list(due.regions)}
        text = json.dumps(detail, sort_keys=True, separators=(",", ":"))
        change = Change(due.cluster, erased(due, by), AuditEvent("", ACTION, "done", text))
        (result,) = await self._storage.decide(self._storage.store.apply, [change])
        if isinstance(result, CommittedChange):
            self._changes.applied_here(result.number, result.entry_id, due.cluster)
            telemetry.REGIONS_ERASED.inc(len(due.regions))
            self._failed.discard(due)
            left = (
                f"{len(result.cluster.regions)} regions are left"
                if result.cluster.regions
                else "the cluster is gone"
            )
            log.info("erased %s of cluster %s: %s", ", ".join(due.regions), due.cluster, left)
            return True
        if isinstance(result, ConcurrentChangeError):
            log.info("cluster %s was changed before it was erased", due.cluster)
        elif due not in self._failed:
            self._failed.add(due)
            told = result.message if isinstance(result, KeyfoldError) else repr(result)
            log.error("cluster %s cannot be erased: %s", due.cluster, told)
        return False

    async def _clear(self) -> None:
        """Clears the database's files, unless this replica has just done so."""
        now = self._clock.monotonic()
        if self._cleared_at is not None and now - self._cleared_at < _CLEAR_EVERY:
            return
        self._cleared_at = now
        try:
            if not await self._storage.run(self._storage.store.clear_traces):
                log.warning(
                    "the store's file still has traces of what was erased: it is too large to "
                    "write anew while the server serves, or somebody reads an old state of it; "
                    "the server tries again, and a start of the server does it"
                )
        except KeyfoldError as error:
            log.warning("the store's files were not cleared of what was erased: %s", error.message)
