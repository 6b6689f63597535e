"""The deadline of a call: the caller's own, within the server's bounds."""

from __future__ import annotations

from typing import Final

from keyfold_server.domain.bounds import Bounds
from keyfold_server.domain.ports import Clock
from keyfold_server.rpc.call import Call

ANSWER_BEFORE: Final = 0.05
"""Seconds before the caller's deadline at which the server answers, so that the answer arrives."""


def deadline_of(call: Call, bounds: Bounds, clock: Clock) -> float:
    """Returns the time by which the server answers a call, in monotonic seconds."""
    left = call.time_remaining()
    if left is None:
        left = bounds.default_deadline
    left = min(left, bounds.longest_deadline)
    return clock.monotonic() + left - min(ANSWER_BEFORE, left / 10)
