"""Faults that a test or a seed puts into the answers of the Azure counterpart.

A fault is data, so that it can come from a seed file as well as from a test. It applies to requests
to a listener and for an operation, as often as it says.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from counterparts.azure_errors import errors


@dataclass(frozen=True)
class Fault:
    """A change of some answers.

    Attributes:
        at: The listener's URL, as the counterpart names it; None for every listener.
        operation: The operation as the request log names it (`wrapkey`, `unwrapkey`, `encrypt`,
            `decrypt`, `get`, `versions`, `challenge`, `token`, `openid`, ...); None for every one.
        times: Number of requests that it applies to; None for all until the faults are cleared.
        error: Name of an answer of the data file, which replaces the work.
        status: HTTP status that replaces the answer's.
        headers: Headers to add to the answer, such as `Retry-After`.
        members: Top-level members to replace in a JSON answer, such as the plaintext or key id.
        body: Body that replaces the answer's.
        size: Bytes up to which spaces, which JSON allows, fill the body.
        delay: Seconds before the answer.
        hang: Whether the answer never comes, for as long as the counterpart runs.
        drip: Seconds between one byte of the body and the next; 0 sends it at once.
        reset: Whether the connection is reset (RST) instead of an answer.
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
    """The faults that wait for a request. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Fault, int | None]] = []

    def add(self, fault: Fault) -> None:
        """Adds a fault behind those that wait already.

        Raises:
            ValueError: The data file has no such error.
        """
        if fault.error is not None and fault.error not in errors():
            raise ValueError(f"there is no error '{fault.error}'; there are {sorted(errors())}")
        with self._lock:
            self._waiting.append((fault, fault.times))

    def clear(self) -> None:
        """Removes all faults; requests that hang already go on hanging."""
        with self._lock:
            self._waiting.clear()

    def take(self, at: str, operation: str) -> Fault | None:
        """Returns the first fault that applies to a request, and counts it as used."""
        with self._lock:
            for index, (fault, left) in enumerate(self._waiting):
                if fault.at in (None, at) and fault.operation in (None, operation):
                    if left is not None:
                        self._waiting[index] = (fault, left - 1)
                        if left <= 1:
                            del self._waiting[index]
                    return fault
        return None
