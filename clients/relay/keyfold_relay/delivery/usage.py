"""One target's copy of the counts of use, span by span, each once its span is over.

The counts are observations, so the server keeps no cursor for them. When the relay starts, it sends
the spans of the last day again; an id names a cluster's span, so that receivers drop duplicates.
While the relay runs, no span is left out, however long the target or Keyfold is away.

The store's clock says when a span is over, because it also says in which one a use is counted. The
relay's own clock may be wrong, or be set. If the store's clock is set back, uses are counted in
spans that were delivered already, so these are delivered again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

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

LOOK_EVERY: Final = 60.0
"""Most seconds between two looks at the store's clock."""

_T = TypeVar("_T")

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
        start = int(await self._insist(self._source.time) - BACK) // self._span * self._span
        while True:
            now = await self._insist(self._source.time)
            start = self._not_after(now, start)
            left = start + self._span + SETTLED - now
            if left > 0:
                # The store's clock may be set meanwhile, so look again before long.
                await self._clock.wait(self._never, min(left, LOOK_EVERY))
                continue
            await self._insist(partial(self._deliver, start))
            start += self._span
            self._through.set(start)

    def _not_after(self, now: float, start: int) -> int:
        """Returns where the next span begins: again in the present one, if the clock went back."""
        present = int(now) // self._span * self._span
        if present >= start:
            return start
        _log.warning(
            "the store's clock was set back by %d s or more: counts of use since then are sent "
            "again once their span is over, under the same ids",
            start - now,
            extra={"target": self._name, "span": present},
        )
        return present

    async def _deliver(self, start: int) -> None:
        """Delivers the counts of one span."""
        await self._send(await self._source.usage(start, self._span, self._wanted))

    async def _insist(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Does a piece of work, however often that has to be tried."""
        failures = 0
        while True:
            asked = None
            try:
                return await work()
            except (NotNowError, NotTakenError) as error:
                asked = error.retry_after if isinstance(error, NotTakenError) else None
                _log.warning("counts of use wait: %s", error, extra={"target": self._name})
            except Exception:  # noqa: BLE001  a defect, too, must not end the delivery
                _log.exception("counts of use wait", extra={"target": self._name})
            failures += 1
            await self._clock.wait(self._never, backoff.wait(failures, asked))

    async def _send(self, events: Sequence[CloudEvent]) -> None:
        most = self._target.limits.events
        for first in range(0, len(events), most):
            await self._target.send(events[first : first + most])
