"""The deadlines of calls."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import Final

from keyfold.arguments import wrong_type, wrong_value
from keyfold.calls.call import Plane

DATA_TIMEOUT: Final = 10.0
"""Seconds for a data-plane call. One that needs a cold key waits up to 5 s for the KMS."""

CONTROL_TIMEOUT: Final = 30.0
"""Seconds for any other call, which may need the KMS of each region."""


_LONGEST: Final = 365 * 86_400.0
"""Seconds. gRPC takes a time that its clock cannot hold for one that has passed."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The deadlines of calls that do not set their own.

    Attributes:
        data: Seconds for a data-plane call.
        control: Seconds for any other call, which may wait for several root keys.
    """

    data: float
    control: float

    @classmethod
    def of_client(cls, timeout: float, control_timeout: float) -> Timeouts:
        """Returns the deadlines of a client that has these arguments.

        Raises:
            ArgumentTypeError: One is not a number.
            ArgumentValueError: One is not a number in any sense.
        """
        return cls(_usable(timeout, "timeout"), _usable(control_timeout, "control_timeout"))

    def of(self, plane: Plane, given: float | None) -> float:
        """Returns the seconds that a call may take: `given`, or else the plane's default.

        Raises:
            ArgumentTypeError: `given` is not a number.
            ArgumentValueError: It is not a number in any sense.
        """
        if given is not None:
            return _usable(given, "timeout")
        return self.data if plane is Plane.DATA else self.control


def _usable(timeout: object, name: str) -> float:
    """Returns a time that gRPC can add to the clock's."""
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise wrong_type(name, "float", timeout)
    if isnan(timeout):
        raise wrong_value(f"{name} is not a number of seconds; leave it out for the default")
    return min(timeout, _LONGEST)
