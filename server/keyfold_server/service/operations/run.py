"""A run: one replica goes through the items of one operation, until it ends or another has it.

Several items are under way at once, but only a few of one root key, so that a hanging KMS holds up
only the items of its own keys. Progress is the place up to which every item has ended. Items that
ended beyond it are begun again after a crash, and find that they were carried out (`steps`). So
counts are exact, and memory holds a window of items, however many there are.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.errors import ConcurrentChangeError, KeyfoldError, NotAllowedError
from keyfold_server.domain.log import AuditEvent
from keyfold_server.domain.operations import (
    BEGINNING,
    CANCELLED,
    DONE,
    LISTED,
    ActionKind,
    Failure,
    Operation,
    OperationChange,
    Place,
    Progress,
    Work,
    advanced,
    ended,
)
from keyfold_server.domain.ports import Clock
from keyfold_server.service.operations.census import Counting
from keyfold_server.service.operations.items import Item, Items
from keyfold_server.service.operations.steps import Ended, Steps, Verdict
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

PER_KEY: Final = 8
"""Most items of one root key under way at once in one operation. The gates bound its calls."""

_WINDOW: Final = 512
"""Most items that an operation holds: under way, ended beyond its place, or found ahead."""

_CHECKPOINT: Final = 1.0
"""Seconds between two writes of progress."""

_RENEWALS: Final = 3
"""Renewals of a lease within the time for which it holds."""

STARTING: Final = "StartOperation"
"""The method whose role the caller of an operation needs for as long as the operation runs."""


@dataclass(slots=True, eq=False)
class _Slot:
    """An item in the window, the id of its root key, and how it ended."""

    item: Item
    root: str
    ended: Ended | None = None
    begun: bool = False


class Run:
    """Goes through the items of one operation that this replica has taken."""

    def __init__(
        self,
        operation: Operation,
        items: Items,
        steps: Steps,
        storage: Storage,
        counting: Callable[[Work], Counting],
        clock: Clock,
        lease: float,
        room: asyncio.Semaphore,
    ) -> None:
        """Joins the run to the store.

        Args:
            operation: The operation, with this run as its holder.
            items: Finds its items.
            steps: Carries them out.
            storage: The store.
            counting: Returns what counts its items.
            clock: Monotonic time.
            lease: Seconds for which a lease holds.
            room: Places for the items of all operations of this replica.
        """
        self._operation = operation
        self._items = items
        self._steps = steps
        self._storage = storage
        self._counting = counting
        self._clock = clock
        self._lease = lease
        self._room = room
        self._window: deque[_Slot] = deque()
        self._running: dict[asyncio.Task[Ended], _Slot] = {}
        self._of_key: Counter[str] = Counter()
        self._changing: set[tuple[str, str]] = set()
        self._progress = operation.progress
        self._failures: list[Failure] = []
        self._written = clock.monotonic()
        self._writing = asyncio.Lock()
        self._stopping = False

    def stop(self) -> None:
        """Begins nothing more, and gives the operation back once nothing is under way."""
        self._stopping = True

    async def go(self) -> None:
        """Goes on until the operation ends, or another replica has it, or `stop`.

        Raises:
            KeyfoldError: The store cannot be used; the lease will pass.
        """
        renewing = asyncio.create_task(self._keep_lease())
        try:
            if self._operation.census is None:
                await self._count()
            outcome, message = await self._work()
            while self._running:
                await self._step()
            renewing.cancel()
            if outcome:
                self._count_rest()
                await self._end(outcome, message)
            else:
                await self._checkpoint(lease=0.0)
        except ConcurrentChangeError:
            log.info("another replica goes on with operation %s", self._operation.key.name)
        finally:
            renewing.cancel()
            # Their changes go on by themselves; the next run finds them carried out.
            for task in self._running:
                task.cancel()
                self._room.release()

    async def _count(self) -> None:
        """Takes the census."""
        operation = self._operation
        counting = self._counting(operation.work)
        async with aclosing(self._found(BEGINNING)) as items:
            async for item in items:
                await counting.add(item)
                if self._stopping or self._operation.cancelled_at is not None:
                    return
        census = counting.census()
        await self._change(advanced(operation.key, operation.holder, self._lease, census=census))

    async def _work(self) -> tuple[str, str]:
        """Begins items while there are any and none forbids it.

        Returns:
            The outcome of the operation and a line about it; an empty outcome: this run stops.
        """
        async with aclosing(self._found(self._progress.place)) as found:
            more = True
            while True:
                if self._stopping:
                    return "", ""
                if self._operation.cancelled_at is not None:
                    return CANCELLED, "somebody cancelled it; what was done stays"
                refused = self._refused()
                if refused is not None:
                    return refused.reason, refused.message
                while more and len(self._window) < _WINDOW and self._wants_more():
                    item = await anext(found, None)
                    if item is None:
                        more = False
                    else:
                        self._window.append(_Slot(item, item.root))
                await self._begin()
                if not self._running:
                    # Nothing kept an item from being begun, so there is none left.
                    return DONE, ""
                await self._step()

    def _wants_more(self) -> bool:
        """Says whether the items that wait in the window are few, or all wait for their keys."""
        waiting = sum(not slot.begun for slot in self._window)
        return waiting < 2 * self._operation.work.at_once or not self._beginnable()

    def _beginnable(self) -> bool:
        return any(self._may_begin(slot) for slot in self._window)

    def _may_begin(self, slot: _Slot) -> bool:
        """Says whether an item waits only for its turn.

        Two changes of one cluster at once would race for its row, and the loser would do its work
        again. Under different root keys they may all the same: one key's KMS may hang.
        """
        return (
            not slot.begun
            and self._of_key[slot.root] < PER_KEY
            and (slot.item.place.cluster, slot.root) not in self._changing
        )

    def _refused(self) -> NotAllowedError | None:
        """Returns why the caller may not go on, if it has lost the right to such operations."""
        rights = self._steps.caller(self._operation).rights
        try:
            rights.check(STARTING)
            rights.check(self._operation.work.kind.rpc)
        except NotAllowedError as error:
            return error
        return None

    def _found(self, place: Place) -> AsyncGenerator[Item]:
        """Yields the items after a place, by the rights that the caller has now."""
        rights = self._steps.caller(self._operation).rights
        return self._items.after(self._operation.work, rights, place)

    async def _begin(self) -> None:
        """Begins as many of the items in the window as may be under way at once."""
        most = self._operation.work.at_once
        for slot in self._window:
            if len(self._running) >= most:
                return
            if not self._may_begin(slot):
                continue
            if self._room.locked() and self._running:
                return
            await self._room.acquire()
            slot.begun = True
            self._of_key[slot.root] += 1
            if self._operation.work.kind.changes:
                self._changing.add((slot.item.place.cluster, slot.root))
            task = asyncio.create_task(self._steps.take(self._operation, slot.item))
            self._running[task] = slot

    async def _step(self) -> None:
        """Waits until an item ends, or progress has to be written."""
        left = self._written + _CHECKPOINT - self._clock.monotonic()
        done, _ = await asyncio.wait(
            self._running, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            self._took(task)
        if self._clock.monotonic() >= self._written + _CHECKPOINT:
            await self._checkpoint(self._lease)

    def _count_rest(self) -> None:
        """Counts what has ended beyond the place, because no run goes on from there."""
        for slot in self._window:
            if slot.ended is not None:
                self._count_in(slot, self._progress.place)
        self._window.clear()

    def _took(self, task: asyncio.Task[Ended]) -> None:
        slot = self._running.pop(task)
        self._room.release()
        self._changing.discard((slot.item.place.cluster, slot.root))
        self._of_key[slot.root] -= 1
        if not self._of_key[slot.root]:
            del self._of_key[slot.root]
        slot.ended = task.result()
        kind = self._operation.work.kind.value.lower()
        telemetry.OPERATION_ITEMS.labels(kind, slot.ended.verdict.value).inc()
        while self._window and self._window[0].ended is not None:
            first = self._window.popleft()
            self._count_in(first, first.item.place)

    def _count_in(self, slot: _Slot, place: Place) -> None:
        """Counts an item that has ended."""
        assert slot.ended is not None  # noqa: S101  the caller has looked
        progress = self._progress
        match slot.ended.verdict:
            case Verdict.DONE:
                progress = replace(progress, done=progress.done + 1)
            case Verdict.SKIPPED:
                progress = replace(progress, skipped=progress.skipped + 1)
            case Verdict.FAILED:
                progress = replace(progress, failed=progress.failed + 1)
                if slot.ended.failure is not None and len(self._failures) < LISTED:
                    self._failures.append(slot.ended.failure)
        self._progress = replace(progress, place=place)

    async def _keep_lease(self) -> None:
        """Renews the lease, however long it takes to find an item or to carry one out."""
        while True:
            await asyncio.sleep(self._lease / _RENEWALS)
            operation = self._operation
            try:
                await self._change(advanced(operation.key, operation.holder, self._lease))
            except KeyfoldError as error:
                # If the lease is lost, so is the next write of progress, which ends the run.
                log.warning("operation %s: no lease: %s", operation.key.name, error.reason)

    async def _checkpoint(self, lease: float) -> None:
        """Writes progress, if there is any, and renews the lease."""
        operation = self._operation
        failures, self._failures = tuple(self._failures), []
        known = replace(self._progress, listed=operation.progress.listed)
        progress: Progress | None = known if known != operation.progress else None
        self._written = self._clock.monotonic()
        await self._change(
            advanced(operation.key, operation.holder, lease, progress=progress, failures=failures)
        )

    async def _end(self, outcome: str, message: str) -> None:
        await self._checkpoint(self._lease)
        operation, progress = self._operation, self._operation.progress
        detail = {
            "done": progress.done,
            "failed": progress.failed,
            "operation": operation.key.name,
            "owner": operation.key.owner,
            "skipped": progress.skipped,
        }
        event = AuditEvent(
            "",
            "server:operation:end",
            outcome,
            json.dumps(detail, sort_keys=True, separators=(",", ":")),
            organization=operation.work.organization or "",
            message=message,
        )
        change = ended(operation.key, operation.holder, outcome, message, event)
        if operation.work.kind is ActionKind.MOVE_LINK:
            async with self._writing:
                await self._steps.moves.end(operation, change)
        else:
            await self._change(change)

    async def _change(self, change: OperationChange) -> None:
        # One at a time, so that what this run knows of the operation is never older than the store.
        async with self._writing:
            changed = await self._storage.decide(self._storage.store.change_operation, change)
            if changed is not None:
                self._operation = changed
