"""The spans that the promises are made of; defaults and bounds are the design's section 3."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Spans, all in seconds.

    Attributes:
        cache_ttl: How long a proof lasts where the region's policy does not say.
        outage_grace: How much longer keys serve while the KMS cannot be asked.
        store_max_staleness: How long without the store before this replica refuses to serve.
        store_poll: From one look at the store's changes to the next.
        refusal_memory: How long a refusal is answered without asking the KMS again.
        provider_budget: What one call to a KMS may take in all.
        sweep: From one proof of each KEK in use, and of each root key, to the next.
        revoke_wait: How long Revoke waits for other replicas to confirm.
    """

    cache_ttl: float = 60.0
    outage_grace: float = 900.0
    store_max_staleness: float = 120.0
    store_poll: float = 1.0
    refusal_memory: float = 5.0
    provider_budget: float = 5.0
    revoke_wait: float = 5.0
    sweep: float = 600.0


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Seconds that go on while the machine sleeps: a suspended replica wakes up stale (S3)."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Seconds of Unix time."""
        return time.time()
