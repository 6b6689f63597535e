"""The time spans behind the service's promises, with their defaults.

docs/configuration.md has the settings that change them, with their bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyfold_server.domain.operations import LEASE


@dataclass(frozen=True, slots=True)
class Timing:
    """Time spans, all in seconds. The settings take their defaults from here.

    Attributes:
        cache_ttl: One successful unwrap lets a key be used for this long, unless the region's
            policy sets another span.
        outage_grace: A key serves this much longer while the KMS cannot be asked, unless the
            region's policy sets another span.
        store_max_staleness: A replica serves this long without reaching the store.
        store_poll: A replica waits this long between two polls of the store.
        refusal_memory: Keyfold repeats a KMS's refusal for this long before it calls the KMS
            again.
        provider_budget: One call to a KMS takes no longer than this in all.
        revoke_wait: Revoke waits this long for other replicas to confirm.
        sweep: The sweep proves each KEK in use, and each root key, once in this time.
        log_retention: The store keeps each entry of the log for this long at least.
        cursor_expiry: A cursor that nobody advances expires after this time.
        usage_retention: The store keeps counts of uses for this long.
        operation_lease: A replica that dies leaves its operations to others after this time.
        backup_retention: The vendor keeps backups and exports for this long (`domain.retention`).
    """

    cache_ttl: float = 60.0
    outage_grace: float = 900.0
    store_max_staleness: float = 120.0
    store_poll: float = 1.0
    refusal_memory: float = 5.0
    provider_budget: float = 5.0
    revoke_wait: float = 5.0
    sweep: float = 600.0
    log_retention: float = 400 * 86_400.0
    cursor_expiry: float = 30 * 86_400.0
    usage_retention: float = 31 * 86_400.0
    operation_lease: float = LEASE
    backup_retention: float = 30 * 86_400.0
