"""Turns of the event loop: how work on many things leaves some to others (protocol W5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")


async def one_by_one(items: Iterable[_Item]) -> AsyncIterator[_Item]:
    """Yields items, and lets the event loop take its other turns between them.

    A page of ListClusters has up to 1,000 clusters of 64 regions, and each cluster needs
    milliseconds.
    """
    for number, item in enumerate(items):
        if number:
            await asyncio.sleep(0)
        yield item
