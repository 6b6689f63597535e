"""Faults that a test can cause at the Google Cloud counterpart.

Each operation has a queue of faults: an RPC by its name ("Encrypt"), the token endpoint ("token"),
or the impersonation of a service account ("generateAccessToken"). A fault either comes before the
work, and may end it, or changes the answer. This module knows no keys and no principals.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from counterparts.gcp_errors import ERRORS

# Faults before the work: an error, no answer at all, an answer seen elsewhere, a late answer.
BEFORE = frozenset({"error", "hang", "recorded", "slow"})
# The faults of BEFORE that hold the call.
HOLDING = frozenset({"hang", "slow"})
# Faults that change an answer.
AFTER = frozenset({"foreign", "oversized", "unverified", "wrong_crc", "wrong_name"})


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: "error"; "recorded", an answer that was seen elsewhere; "hang", no answer until the
            caller goes or the faults are cleared; "slow"; "foreign", other bytes with a right
            checksum; "oversized"; "unverified", verified_* are false; "wrong_crc"; "wrong_name",
            the name of another key.
        error: The error's name in `gcp_errors.json`, for the kind "error".
        answer: The answer in the form of that file, for the kind "recorded".
        seconds: Seconds of delay, for "slow"; seconds of the retry hint, for an error that has one.
        size: Bytes of the answer's payload, for "oversized".
    """

    kind: str
    error: str = ""
    answer: Mapping[str, Any] | None = None
    seconds: float = 1
    size: int = 5 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.kind not in BEFORE | AFTER:
            raise ValueError(f"no fault is called {self.kind!r}")
        if (self.kind == "error") != bool(self.error):
            raise ValueError("an error's name and the kind 'error' go together")
        if (self.kind == "recorded") != (self.answer is not None):
            raise ValueError("an answer and the kind 'recorded' go together")
        if self.error and self.error not in ERRORS:
            raise ValueError(f"no error is called {self.error!r}, take one of gcp_errors.json")


@dataclass(frozen=True, eq=False)
class Met:
    """A fault that a call has met.

    Attributes:
        fault: The fault.
        released: Set when the fault no longer holds the call.
    """

    fault: Fault
    released: threading.Event = field(default_factory=threading.Event)


class Faults:
    """The queues of faults, and the calls that faults hold. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queues: dict[str, list[tuple[Fault, int | None]]] = defaultdict(list)
        self._held: set[Met] = set()

    def add(self, operation: str, fault: Fault, times: int | None) -> None:
        """Queues a fault for so many calls, or with None until the faults are cleared."""
        with self._changed:
            self._queues[operation].append((fault, times))

    def take(self, operation: str) -> Met | None:
        """Returns the fault that this call meets, if any."""
        with self._changed:
            queue = self._queues[operation]
            if not queue:
                return None
            fault, times = queue[0]
            if times is not None:
                queue[:1] = [(fault, times - 1)] if times > 1 else []
            met = Met(fault)
            if fault.kind in HOLDING:
                # Add it here already, so that clearing the faults from now on reaches this call.
                self._held.add(met)
                self._changed.notify_all()
            return met

    def clear(self) -> None:
        """Forgets all faults and releases all calls that they hold."""
        with self._changed:
            self._queues.clear()
            for met in self._held:
                met.released.set()

    def hold(self, met: Met, until: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Holds the calling thread as long as its fault says.

        Args:
            met: A fault of HOLDING.
            until: Registers a function to call when the caller is gone.
        """
        # A call that has already ended takes no callback, and no caller waits for it.
        if until is None or until(met.released.set):
            met.released.wait(None if met.fault.kind == "hang" else met.fault.seconds)
        with self._changed:
            self._held.discard(met)

    def wait_until_held(self, calls: int, seconds: float) -> bool:
        """Waits until faults hold so many calls at once; returns whether that happened."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._held) >= calls, seconds)
