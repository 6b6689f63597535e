"""Attempts: how often an adapter sent one call to its KMS, for metrics and traces.

A call goes through threads and SDKs that cannot hand a count back, so the count is kept in the
context that the call's thread runs in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final


class Attempts:
    """The count of one call's attempts. It is 1 until the adapter counts a retry."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        """Starts with the first attempt."""
        self.count = 1


_attempts: Final[ContextVar[Attempts | None]] = ContextVar("attempts", default=None)


@contextmanager
def counted() -> Iterator[Attempts]:
    """Counts the attempts of the call that is made inside this context."""
    attempts = Attempts()
    token = _attempts.set(attempts)
    try:
        yield attempts
    finally:
        _attempts.reset(token)


def count_retry() -> None:
    """Counts one more attempt. Adapters call this in the call's own thread, before a retry."""
    attempts = _attempts.get()
    if attempts is not None:
        attempts.count += 1
