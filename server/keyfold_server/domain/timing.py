"""The spans of time on which the promises rest, and their default values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Spans, all in seconds. The settings take their defaults from here.

    Attributes:
        cache_ttl: How long one successful unwrap lets a key be used, unless the region's policy
            says otherwise.
        outage_grace: How much longer a key serves while the KMS cannot be asked, unless the
            region's policy says otherwise.
        store_max_staleness: How long a replica serves without reaching the store.
        store_poll: The wait between two looks at the store's changes.
        refusal_memory: How long Keyfold repeats a KMS's refusal without asking the KMS again.
        provider_budget: The most that one call to a KMS may take in all.
        revoke_wait: How long Revoke waits for other replicas to confirm.
        sweep: The wait between two proofs of each KEK in use, and of each root key.
    """

    cache_ttl: float = 60.0
    outage_grace: float = 900.0
    store_max_staleness: float = 120.0
    store_poll: float = 1.0
    refusal_memory: float = 5.0
    provider_budget: float = 5.0
    revoke_wait: float = 5.0
    sweep: float = 600.0
