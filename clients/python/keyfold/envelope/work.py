"""Where long computing and waiting happen: in a thread beside an event loop, which so goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_LONG: Final = 256 * 1024
"""Bytes from which on a thread is worth its start. AES-GCM takes less than a millisecond for it."""


def work(size: int, compute: Callable[[], T]) -> T:  # noqa: ARG001  as its twin
    """Returns what a function computes from a number of bytes."""
    return compute()


async def async_work(size: int, compute: Callable[[], T]) -> T:
    """Returns what a function computes from a number of bytes; in a thread, if that takes long."""
    return compute() if size < _LONG else await asyncio.to_thread(compute)


def waiting(take_or_give: Callable[[], T]) -> T:
    """Returns what a function returns that reads a file or pipe, or writes it."""
    return take_or_give()


async def async_waiting(take_or_give: Callable[[], T]) -> T:
    """Returns what a function returns that reads a file or pipe, or writes it."""
    return await asyncio.to_thread(take_or_give)
