"""What every target can do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from keyfold_relay.cloudevents import CloudEvent


@dataclass(frozen=True, slots=True)
class Limits:
    """The size of a batch.

    Attributes:
        events: Most events.
        size: Most bytes; a batch may be one event larger than that alone.
        wait: Seconds for which events are collected before a batch that is not full is sent.
    """

    events: int
    size: int
    wait: float = 0.0


MOMENT: Final = 0.05
"""Seconds for which targets collect that take each event as it comes. A request or an fsync costs
as much as many events, so events that come one by one go out a few together."""


class NotTakenError(Exception):
    """A target has not taken a batch. Sending it again is safe.

    Attributes:
        retry_after: Seconds for which the target asks to wait, or None.
        too_large: Whether the target would take fewer events.
        gone: Whether the target says that it wants no events any more.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        too_large: bool = False,
        gone: bool = False,
    ) -> None:
        """Makes an error from the values that the class describes."""
        super().__init__(message)
        self.retry_after = retry_after
        self.too_large = too_large
        self.gone = gone


class Target(Protocol):
    """Where events go."""

    @property
    def limits(self) -> Limits:
        """How large a batch may be."""
        ...

    async def send(self, batch: Sequence[CloudEvent]) -> None:
        """Sends a batch; returns once the target has it safely.

        Raises:
            NotTakenError: The target has not taken it, or it is unknown whether it has.
        """
        ...

    def reopen(self) -> None:
        """Opens files again, which another program may have renamed."""
        ...

    async def close(self) -> None:
        """Ends; nothing is sent any more."""
        ...


class Shared:
    """A target to which several senders send, one batch at a time.

    Args:
        target: The target itself.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._alone = asyncio.Lock()

    @property
    def limits(self) -> Limits:
        """How large a batch may be."""
        return self._target.limits

    async def send(self, batch: Sequence[CloudEvent]) -> None:
        """Sends a batch once those before it are sent; raises as the target does."""
        async with self._alone:
            await self._target.send(batch)

    def reopen(self) -> None:
        """Opens files again."""
        self._target.reopen()

    async def close(self) -> None:
        """Ends; nothing is sent any more."""
        await self._target.close()
