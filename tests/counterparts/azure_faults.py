"""Faults that a test or a seed puts into the answers of the Azure counterpart.

A fault is data, so that it can come from a seed file as well as from a test. It is matched by
listener and by operation, and serves as often as it says.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from counterparts.azure_errors import errors


@dataclass(frozen=True)
class Fault:
    """What happens to some answers.

    Attributes:
        at: The listener's URL, as the counterpart names it; None for each of them.
        operation: The operation as the request log names it (`wrapkey`, `unwrapkey`, `encrypt`,
            `decrypt`, `get`, `versions`, `challenge`, `token`, `openid`, ...); None for each.
        times: How many requests it serves; None for all until the faults are cleared.
        error: An answer of the data file that is given instead of doing anything.
        status: Replaces the HTTP status.
        headers: Are added to the answer, such as `Retry-After`.
        members: Replace top-level members of a JSON answer: somebody else's plaintext, key id, tag.
        body: Replaces the whole body.
        size: The body is filled up to this many bytes with spaces, which JSON allows.
        delay: Seconds before the answer.
        hang: No answer at all, for as long as the counterpart runs.
        drip: Seconds between one byte of the body and the next; 0 sends it at once.
        reset: The connection is reset (RST) instead of an answer.
    """

    at: str | None = None
    operation: str | None = None
    times: int | None = 1
    error: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)
    body: str | None = None
    size: int = 0
    delay: float = 0.0
    hang: bool = False
    drip: float = 0.0
    reset: bool = False


class Faults:
    """The faults that wait for a request; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Fault, int | None]] = []

    def add(self, fault: Fault) -> None:
        """Puts a fault behind those that wait already.

        Raises:
            ValueError: The data file has no such error.
        """
        if fault.error is not None and fault.error not in errors():
            raise ValueError(f"there is no error '{fault.error}'; there are {sorted(errors())}")
        with self._lock:
            self._waiting.append((fault, fault.times))

    def clear(self) -> None:
        """Takes all faults away; requests that hang already go on hanging."""
        with self._lock:
            self._waiting.clear()

    def take(self, at: str, operation: str) -> Fault | None:
        """Returns the first fault that fits a request, and counts it as served."""
        with self._lock:
            for index, (fault, left) in enumerate(self._waiting):
                if fault.at in (None, at) and fault.operation in (None, operation):
                    if left is not None:
                        self._waiting[index] = (fault, left - 1)
                        if left <= 1:
                            del self._waiting[index]
                    return fault
        return None
