"""How often an adapter asked its service to carry out one call, for whoever watches the calls.

A call goes through threads and SDKs that pass nothing on, so the count lies in the context that
the call's thread is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final


class Attempts:
    """The count of one call: 1 until the adapter says otherwise."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        """A call that was begun is one attempt."""
        self.count = 1


_attempts: Final[ContextVar[Attempts | None]] = ContextVar("attempts", default=None)


@contextmanager
def counted() -> Iterator[Attempts]:
    """Counts the attempts of the call that is made within."""
    attempts = Attempts()
    token = _attempts.set(attempts)
    try:
        yield attempts
    finally:
        _attempts.reset(token)


def count_retry() -> None:
    """Notes that the call is tried once more; for adapters, in the call's own thread."""
    attempts = _attempts.get()
    if attempts is not None:
        attempts.count += 1
