"""All targets of one file, in one process.

Each target has a task, a stream, connections and a time limit of its own, so a target that hangs
delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Final

from keyfold_relay import targets
from keyfold_relay.clock import Clock
from keyfold_relay.config import Config, ConfigError
from keyfold_relay.delivery import Delivery, Ending, UsageDelivery
from keyfold_relay.meters import Meters
from keyfold_relay.monitoring import Monitoring
from keyfold_relay.source import NotNowError, Usage
from keyfold_relay.source.event_service import EventService
from keyfold_relay.targets import Shared, Target

LOOK_EVERY: Final = 15.0
"""Seconds between two looks at how far behind the cursors are."""

_CLOSE_WITHIN: Final = 2.0
"""Seconds for closing connections at the end."""

_log: Final = logging.getLogger(__name__)


class ExitCode(IntEnum):
    """How `keyfold-relay` ends; `keyfold-relay --help` explains them."""

    OK = 0
    UNEXPECTED = 1
    INVALID = 2
    TAKEN = 3
    EXPIRED = 4
    NOT_DELIVERED = 5


_CODES: Final = {
    Ending.DRAINED: ExitCode.OK,
    Ending.CAUGHT_UP: ExitCode.OK,
    Ending.TAKEN: ExitCode.TAKEN,
    Ending.EXPIRED: ExitCode.EXPIRED,
}


class Relay:
    """The relay of one file.

    Args:
        config: The file.

    Raises:
        ConfigError: A value of it cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.meters = Meters()
        self._source = EventService(config.keyfold)
        self._targets: dict[str, Target] = {}
        for name, table in config.targets.items():
            try:
                made = targets.make(table)
                self._targets[name] = made if table.usage is None else Shared(made)
            except ConfigError as error:
                raise ConfigError(f"targets.{name}: {error}") from None
        self.deliveries = [
            Delivery(
                name,
                config.cursor(name),
                config.targets[name].filter.message(),
                target,
                self._source,
                meters=self.meters,
                park_after=config.relay.park_after,
                clock=Clock(),
            )
            for name, target in self._targets.items()
        ]

        self._usages = [
            UsageDelivery(
                name,
                table.usage,
                Usage(table.filter.cluster, table.filter.organization, table.filter.caller),
                self._targets[name],
                source=self._source,
                meters=self.meters,
                clock=Clock(),
            )
            for name, table in config.targets.items()
            if table.usage is not None
        ]

    async def run(self) -> ExitCode:
        """Delivers until SIGTERM or SIGINT, or until no target goes on.

        Raises:
            ConfigError: The monitoring address cannot be bound.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hurry)
        monitoring = Monitoring(self.meters, self.deliveries)
        if self._config.relay.monitoring is not None:
            await monitoring.open(self._config.relay.monitoring)
        _log.info("the relay delivers", extra={"targets": sorted(self._targets)})
        beside = [asyncio.create_task(self._look())]
        beside += [asyncio.create_task(each.run()) for each in self._usages]
        try:
            endings = await self._deliver(stop)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            await monitoring.close()
            await self._close()
        code = max((_CODES[ending] for ending in endings), default=ExitCode.OK)
        _log.info("the relay has ended", extra={"exit_code": int(code)})
        return code

    async def _deliver(self, stop: asyncio.Event) -> list[Ending]:
        tasks = [asyncio.create_task(one.run(), name=one.name) for one in self.deliveries]
        stopped = asyncio.create_task(stop.wait())
        pending: set[asyncio.Task[Ending]] = set(tasks)
        while pending and not stop.is_set():
            done, _ = await asyncio.wait([*pending, stopped], return_when=asyncio.FIRST_COMPLETED)
            pending -= done
        stopped.cancel()
        if pending:
            _log.info("the relay ends its batches", extra={"within": self._config.relay.drain})
            for one in self.deliveries:
                one.stop()
            _, late = await asyncio.wait(pending, timeout=self._config.relay.drain)
            for task in late:
                # It sends its batch again when it starts: the cursor has not passed it.
                _log.warning("a batch did not end in time", extra={"target": task.get_name()})
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_CLOSE_WITHIN)
        return [task.result() if _has_result(task) else Ending.DRAINED for task in tasks]

    def _hurry(self) -> None:
        _log.info("SIGHUP: files are opened again, and waiting targets tried")
        for one in self.deliveries:
            one.hurry()

    async def _look(self) -> None:
        """Keeps the metric of how far behind each cursor is."""
        names = {self._config.cursor(name): name for name in self._targets}
        while True:
            with contextlib.suppress(NotNowError):
                for name, cursor in (await self._source.cursors()).items():
                    if name in names:
                        self.meters.lag_entries.labels(names[name]).set(cursor.behind)
            await asyncio.sleep(LOOK_EVERY)

    async def _close(self) -> None:
        closing: list[Callable[[], Awaitable[None]]] = [
            *(target.close for target in self._targets.values()),
            self._source.close,
        ]
        for close in closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_WITHIN):
                    await close()


def _has_result(task: asyncio.Task[Ending]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
