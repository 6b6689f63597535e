"""The runner: takes operations that no replica runs, and runs them here.

Any replica may run any operation that `control` lets it take. The lease in the store says which
one does (`domain.operations.taken`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from keyfold_server import telemetry
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.operations import (
    MOST_AT_ONCE,
    Operation,
    OperationKey,
    taken,
)
from keyfold_server.service.operations.control import Control
from keyfold_server.service.operations.run import Run
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks

log = logging.getLogger(__name__)

EVERY: Final = 1.0
"""Seconds between two looks for operations that no replica runs."""

_AT_ONCE: Final = 8
"""Operations that one replica runs at once."""

_LOOKED_AT: Final = 200
"""Open operations that one look reads: the oldest."""

_STOP: Final = 10.0
"""Seconds that the items under way have when the server stops. The lease passes for the rest."""

MakeRun = Callable[[Operation, asyncio.Semaphore], Run]
"""Makes the run of an operation, with the places for the items of all operations here."""


class Runner:
    """Runs operations on this replica."""

    def __init__(
        self,
        storage: Storage,
        make: MakeRun,
        name: str,
        lease: float,
        check_serving: Callable[[], None],
        control: Control,
    ) -> None:
        """Joins the runner to the store.

        Args:
            storage: The store.
            make: Makes the run of an operation.
            name: The replica's name.
            lease: Seconds for which a lease holds.
            check_serving: Raises if this replica must not use keys.
            control: Knows which operations this replica may run.
        """
        self._storage = storage
        self._make = make
        self._name = name
        self._lease = lease
        self._check_serving = check_serving
        self._control = control
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._runs: dict[OperationKey, Run] = {}
        self._tasks = Tasks()
        self._soon = asyncio.Event()
        self._stopped = False
        self._failing = False

    def hasten(self) -> None:
        """Makes the next look come at once."""
        self._soon.set()

    async def turn(self) -> None:
        """Waits until it is time to look, and takes the operations that no replica runs."""
        with suppress(TimeoutError):
            async with asyncio.timeout(EVERY):
                await self._soon.wait()
        self._soon.clear()
        await self.look()

    async def look(self) -> None:
        """Takes the operations that no replica runs, as far as there is room for them here."""
        try:
            self._check_serving()
        except KeyfoldError:
            return
        if len(self._runs) >= _AT_ONCE or self._stopped:
            return
        free = await self._free()
        await self._control.report(free)
        for operation in filter(self._control.takes, free):
            if len(self._runs) >= _AT_ONCE:
                return
            if operation.key not in self._runs:
                await self._take(operation)

    async def _free(self) -> Sequence[Operation]:
        """Reads the operations that no replica runs; none if the store does not answer.

        That is no failure of this task: the replica serves from memory meanwhile (protocol S3).
        """
        try:
            found = await self._storage.run(self._storage.store.free_operations, _LOOKED_AT)
        except KeyfoldError as error:
            if not self._failing:
                log.warning("operations wait for the store: %s", error.reason)
            self._failing = True
            return ()
        self._failing = False
        return found

    async def _take(self, operation: Operation) -> None:
        holder = f"{self._name}/{secrets.token_hex(8)}"
        change = taken(operation.key, holder, self._lease)
        try:
            got = await self._storage.decide(self._storage.store.change_operation, change)
        except KeyfoldError as error:
            log.info("operation %s was not taken: %s", operation.key.name, error.reason)
            return
        if got is None or got.holder != holder or self._stopped:
            return
        run = self._runs[got.key] = self._make(got, self._room)
        telemetry.OPERATIONS_RUNNING.set(len(self._runs))
        self._tasks.start(self._go(got, run))

    async def _go(self, operation: Operation, run: Run) -> None:
        try:
            await run.go()
        except KeyfoldError as error:
            log.warning(
                "operation %s stopped here, to go on later: %s", operation.key.name, error.reason
            )
        finally:
            del self._runs[operation.key]
            telemetry.OPERATIONS_RUNNING.set(len(self._runs))

    async def stop(self) -> None:
        """Gives the operations back, so that another replica goes on at once."""
        self._stopped = True
        for run in self._runs.values():
            run.stop()
        await self._tasks.drain(_STOP)
