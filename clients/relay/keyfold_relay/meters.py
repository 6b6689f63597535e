"""The relay's metrics. Their labels are names of the operator's own targets and nothing else."""

from __future__ import annotations

import platform
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from keyfold.version import __version__

STATES: Final = ("delivering", "retrying", "parked", "stopped")
"""What a target can be doing; one of its states is 1."""

_ARRIVALS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15, 60, 300, 3600, 86_400)


class Meters:
    """All metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Info(
            "keyfold_relay_build", "The relay's release, and Python's.", registry=self.registry
        ).info({"version": __version__, "python": platform.python_version()})
        target = ("target",)
        self.delivered = Counter(
            "keyfold_relay_delivered",
            "Events that a target has taken. One that was sent again counts again.",
            target,
            registry=self.registry,
        )
        self.retries = Counter(
            "keyfold_relay_retries",
            "Attempts to send a batch that the target did not take.",
            target,
            registry=self.registry,
        )
        self.state = Gauge(
            "keyfold_relay_target_state",
            "1 for what a target is doing: delivering, retrying, parked or stopped.",
            ("target", "state"),
            registry=self.registry,
        )
        self.lag_seconds = Gauge(
            "keyfold_relay_lag_seconds",
            "Age of the oldest event that the relay has and the target has not; 0 if none.",
            target,
            registry=self.registry,
        )
        self.lag_entries = Gauge(
            "keyfold_relay_lag_entries",
            "Entries of the log after the target's cursor, looked up every 15 seconds.",
            target,
            registry=self.registry,
        )
        self.arrival = Histogram(
            "keyfold_relay_arrival_seconds",
            "Time from an event, by the store's clock, until the target has it.",
            target,
            buckets=_ARRIVALS,
            registry=self.registry,
        )
        self.usage_through = Gauge(
            "keyfold_relay_usage_through_seconds",
            "Unix time up to which a target has the counts of use; 0 if it gets none.",
            target,
            registry=self.registry,
        )
