"""How long a call may take whose caller does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keyfold.calls.call import Plane

DATA_TIMEOUT: Final = 10.0
"""Seconds for a call of the data plane. A cold key waits up to 5 s for the customer's KMS."""

CONTROL_TIMEOUT: Final = 30.0
"""Seconds for any other call, which may have to ask the KMS for each region."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The deadlines of calls that name none.

    Attributes:
        data: Seconds for a call of the data plane.
        control: Seconds for any other; it may wait for several root keys.
    """

    data: float
    control: float

    def of(self, plane: Plane, given: float | None) -> float:
        """Returns the seconds that a call may take, with the caller's own wish if there is one."""
        if given is not None:
            return given
        return self.data if plane is Plane.DATA else self.control
