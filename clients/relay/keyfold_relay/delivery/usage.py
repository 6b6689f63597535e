"""One target's copy of the counts of use, span by span, each once its span is over.

The counts are observations, so the server keeps no cursor for them. When the relay starts, it sends
the spans of the last day again; an id names a cluster's span, so that receivers drop duplicates.
While the relay runs, no span is left out, however long the target or Keyfold is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from keyfold_relay import backoff
from keyfold_relay.clock import Clock
from keyfold_relay.cloudevents import CloudEvent
from keyfold_relay.meters import Meters
from keyfold_relay.source import NotNowError, Usage, UsageSource
from keyfold_relay.targets import NotTakenError, Target

BACK: Final = 86_400.0
"""Seconds for which the relay sends counts again when it starts."""

SETTLED: Final = 90.0
"""Seconds after the end of a span at which its counts are read. Replicas write theirs every 30."""

_log: Final = logging.getLogger(__name__)


class UsageDelivery:
    """The delivery of counts of use to one target.

    Args:
        name: The target's name.
        span: Seconds over which counts are added up, a multiple of 60.
        wanted: Which counts the target gets.
        target: The target.
        source: Where the counts come from.
        meters: The metrics.
        clock: The clock.
    """

    def __init__(
        self,
        name: str,
        span: float,
        wanted: Usage,
        target: Target,
        *,
        source: UsageSource,
        meters: Meters,
        clock: Clock,
    ) -> None:
        self._name = name
        self._span = int(span)
        self._wanted = wanted
        self._target = target
        self._source = source
        self._clock = clock
        self._through = meters.usage_through.labels(name)
        self._never = asyncio.Event()

    async def run(self) -> None:
        """Delivers until it is cancelled."""
        start = int(self._clock.now() - BACK) // self._span * self._span
        while True:
            end = start + self._span
            # The machine's clock may have been set back meanwhile, so look again.
            while (left := end + SETTLED - self._clock.now()) > 0:
                await self._clock.wait(self._never, left)
            await self._deliver(start)
            self._through.set(end)
            start = end

    async def _deliver(self, start: int) -> None:
        """Delivers the counts of one span, however often that has to be tried."""
        failures = 0
        while True:
            asked = None
            try:
                events = await self._source.usage(start, self._span, self._wanted)
                await self._send(events)
            except (NotNowError, NotTakenError) as error:
                asked = error.retry_after if isinstance(error, NotTakenError) else None
                _log.warning(
                    "counts of use wait: %s", error, extra={"target": self._name, "span": start}
                )
            except Exception:  # noqa: BLE001  a defect, too, must not end the delivery
                _log.exception("counts of use wait", extra={"target": self._name})
            else:
                return
            failures += 1
            await self._clock.wait(self._never, backoff.wait(failures, asked))

    async def _send(self, events: Sequence[CloudEvent]) -> None:
        most = self._target.limits.events
        for first in range(0, len(events), most):
            await self._target.send(events[first : first + most])
