"""One target's events, from its cursor to the target."""

from __future__ import annotations

from keyfold_relay.delivery.backlog import Backlog, Batch
from keyfold_relay.delivery.delivery import (
    ADVANCE_EVERY,
    KNOCK_EVERY,
    Delivery,
    Ending,
    ParkedError,
)

__all__ = ["ADVANCE_EVERY", "KNOCK_EVERY", "Backlog", "Batch", "Delivery", "Ending", "ParkedError"]
