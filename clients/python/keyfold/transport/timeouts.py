"""The deadlines of calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keyfold.calls.call import Plane

DATA_TIMEOUT: Final = 10.0
"""Seconds for a data-plane call. One that needs a cold key waits up to 5 s for the KMS."""

CONTROL_TIMEOUT: Final = 30.0
"""Seconds for any other call, which may need the KMS of each region."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The deadlines of calls that do not set their own.

    Attributes:
        data: Seconds for a data-plane call.
        control: Seconds for any other call, which may wait for several root keys.
    """

    data: float
    control: float

    def of(self, plane: Plane, given: float | None) -> float:
        """Returns the seconds that a call may take: `given`, or else the plane's default."""
        if given is not None:
            return given
        return self.data if plane is Plane.DATA else self.control
