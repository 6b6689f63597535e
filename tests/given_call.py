"""A call that no transport carries, for tests of the handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class GivenCall:
    """A call whose request came with it, or comes later.

    Attributes:
        reads: How often its request was read.
        done: What waits for its end; a test calls it.
    """

    def __init__(
        self, request: bytes | None = None, *, whole: bool = True, left: float | None = None
    ) -> None:
        self.peer = "ipv4:192.0.2.1:50000"
        self.whole = request if whole else None
        self.reads = 0
        self.done: list[Callable[[], None]] = []
        self._left = left
        self._request = request

    def header(self, name: str) -> list[str | bytes]:
        return []

    def certificate(self) -> bytes | None:
        return None

    def time_remaining(self) -> float | None:
        return self._left

    async def read(self) -> bytes | None:
        self.reads += 1
        await asyncio.sleep(0)
        return self._request

    async def write(self, message: bytes) -> None:
        raise AssertionError

    def when_done(self, callback: Callable[[], None]) -> None:
        self.done.append(callback)
