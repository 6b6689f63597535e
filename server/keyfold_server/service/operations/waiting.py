"""Waiting: what WaitOperation does for every kind of operation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

_LOOK: Final = 0.25
"""Seconds between two looks of a call that waits."""


class Ends(Protocol):
    """What a caller can wait for."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        ...


_E = TypeVar("_E", bound=Ends)


async def until_ended(look: Callable[[], Awaitable[_E]], most: float, left: float) -> _E:
    """Returns what a look finds once it has ended, or as it is when the time is up.

    Args:
        look: Reads what the caller waits for.
        most: Most seconds to wait; 0: as long as an answer can wait.
        left: Seconds that are left before an answer must be on its way.
    """
    now = asyncio.get_running_loop().time
    ends = now() + (min(most, left) if most else left)
    while True:
        found = await look()
        if found.ended or now() + _LOOK > ends:
            return found
        await asyncio.sleep(_LOOK)
