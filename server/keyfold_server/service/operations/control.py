"""Control: operations whose steps need KMSs run on control replicas, which serve every region.

A replica that serves some regions alone takes the others: those whose steps need no KMS, and those
that were cancelled and have only to end. Where no control replica lives, the rest waits. That is
said in the log, in a metric, and to whoever asks for an operation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.operations import Operation, Work
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.service.fleet.serving import served_by
from keyfold_server.service.storage import Storage

log = logging.getLogger(__name__)

_LOOK_AGAIN: Final = 30.0
"""Seconds between two looks for a control replica, while operations wait for one."""

_TOLD: Final = 10
"""Most operations that a line of the log names."""


class Control:
    """Knows which operations this replica may run, and whether somebody runs the others."""

    def __init__(self, served: ServedRegions, storage: Storage, clock: Clock) -> None:
        """Takes what this replica serves, the store that knows the others, and monotonic time."""
        self._served = served
        self._storage = storage
        self._clock = clock
        self._looked_at = float("-inf")
        self._waiting = False

    def takes(self, operation: Operation) -> bool:
        """Says whether this replica may run an operation."""
        return self._served.all or not operation.needs_control

    def check(self, work: Work) -> None:
        """Refuses work that this replica may not run, before anybody starts it here.

        Raises:
            WrongRegionError: It needs KMSs, and this replica does not serve every region.
        """
        if work.needs_kms:
            self._served.check_all(f"an operation with the action {work.kind.value.lower()}")

    async def report(self, free: Sequence[Operation]) -> None:
        """Reports operations that wait, because no control replica lives.

        Args:
            free: The operations that no replica runs.
        """
        left = [each for each in free if not self.takes(each)]
        now = self._clock.monotonic()
        if not left:
            self._show(left)
        elif now - self._looked_at >= _LOOK_AGAIN:
            self._looked_at = now
            try:
                self._show([] if await self._lives() else left)
            except KeyfoldError as error:
                log.info("the store does not say whether a control replica lives: %s", error.reason)

    async def notice(self, operation: Operation) -> str:
        """Returns what keeps an operation from going on, as far as it is known; may be empty."""
        try:
            if self.takes(operation) or await self._lives():
                return ""
        except KeyfoldError:
            return ""
        return (
            "it waits, because its steps need KMSs and no control replica lives: ask the operator "
            "to start a server with KEYFOLD_SERVES=*"
        )

    async def _lives(self) -> bool:
        """Says whether a control replica lives."""
        return served_by(await self._storage.run(self._storage.store.replicas)).all

    def _show(self, waiting: Sequence[Operation]) -> None:
        telemetry.OPERATIONS_WAITING.set(len(waiting))
        if waiting and not self._waiting:
            names = [each.key.name for each in waiting[:_TOLD]]
            log.warning(
                "%d operations wait, because no control replica lives: %s; start a server with "
                "KEYFOLD_SERVES=*",
                len(waiting),
                ", ".join(names) + (", and others" if len(waiting) > _TOLD else ""),
            )
        elif self._waiting and not waiting:
            log.warning("no operation waits for a control replica any more")
        self._waiting = bool(waiting)
