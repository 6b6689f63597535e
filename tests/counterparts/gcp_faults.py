"""What can be made to go wrong at the Google Cloud counterpart.

Faults stand in line for each operation: an RPC by its name ("Encrypt"), the token endpoint
("token") or the impersonation of a service account ("generateAccessToken"). A fault either comes
before the work, and may end it, or changes the answer. They know no keys and no principals.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from counterparts.gcp_errors import ERRORS

# Before the work: an error's answer, no answer at all, an answer that comes late.
BEFORE = frozenset({"error", "hang", "slow"})
# Those of them that hold the call.
HOLDING = frozenset({"hang", "slow"})
# Changes of an answer.
AFTER = frozenset({"foreign", "oversized", "unverified", "wrong_crc", "wrong_name"})


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: "error"; "hang", nothing is answered until the caller goes or faults are cleared;
            "slow"; "foreign", somebody else's bytes with a right checksum; "oversized";
            "unverified", verified_* are false; "wrong_crc"; "wrong_name", of another key.
        error: With "error": which, as `gcp_errors.json` has it.
        seconds: With "slow": how long it takes. With an error that says when to retry: when.
        size: With "oversized": the bytes of the answer's payload.
    """

    kind: str
    error: str = ""
    seconds: float = 1
    size: int = 5 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.kind not in BEFORE | AFTER:
            raise ValueError(f"no fault is called {self.kind!r}")
        if (self.kind == "error") != bool(self.error):
            raise ValueError("an error's name and the kind 'error' go together")
        if self.error and self.error not in ERRORS:
            raise ValueError(f"no error is called {self.error!r}, take one of gcp_errors.json")


@dataclass(frozen=True, eq=False)
class Met:
    """A fault that a call has met.

    Attributes:
        fault: What it is.
        released: Set when nothing holds the call any more.
    """

    fault: Fault
    released: threading.Event = field(default_factory=threading.Event)


class Faults:
    """The faults in line, and the calls that are being held. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queues: dict[str, list[tuple[Fault, int | None]]] = defaultdict(list)
        self._held: set[Met] = set()

    def add(self, operation: str, fault: Fault, times: int | None) -> None:
        """Puts a fault in line: for so many calls, or until it is cleared with None."""
        with self._changed:
            self._queues[operation].append((fault, times))

    def take(self, operation: str) -> Met | None:
        """Returns what goes wrong with this call, if anything."""
        with self._changed:
            queue = self._queues[operation]
            if not queue:
                return None
            fault, times = queue[0]
            if times is not None:
                queue[:1] = [(fault, times - 1)] if times > 1 else []
            met = Met(fault)
            if fault.kind in HOLDING:
                # Already here, so that who clears the faults from now on reaches this call.
                self._held.add(met)
                self._changed.notify_all()
            return met

    def clear(self) -> None:
        """Forgets all faults and lets go of all calls that are held."""
        with self._changed:
            self._queues.clear()
            for met in self._held:
                met.released.set()

    def hold(self, met: Met, until: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Holds the calling thread as long as its fault says.

        Args:
            met: A fault of HOLDING.
            until: Takes what has to be called when the caller is gone.
        """
        # A call that has ended by now takes no callback, and nobody waits for it.
        if until is None or until(met.released.set):
            met.released.wait(None if met.fault.kind == "hang" else met.fault.seconds)
        with self._changed:
            self._held.discard(met)

    def wait_until_held(self, calls: int, seconds: float) -> bool:
        """Waits until so many calls are held at once, and says whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._held) >= calls, seconds)
