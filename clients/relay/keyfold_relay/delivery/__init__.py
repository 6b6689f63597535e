"""One target's events, from its cursor to the target, and its counts of use."""

from __future__ import annotations

from keyfold_relay.delivery.backlog import Backlog, Batch
from keyfold_relay.delivery.delivery import (
    ADVANCE_EVERY,
    KNOCK_EVERY,
    Delivery,
    Ending,
    ParkedError,
)
from keyfold_relay.delivery.usage import UsageDelivery

__all__ = [
    "ADVANCE_EVERY",
    "KNOCK_EVERY",
    "Backlog",
    "Batch",
    "Delivery",
    "Ending",
    "ParkedError",
    "UsageDelivery",
]
