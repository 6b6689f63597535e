"""One call of the data plane: its rights, what it needs, and what was fetched for it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.rights import Rights
from keyfold_server.service.data.cache_entries import CachedKek


class Need(NamedTuple):
    """What a call needs and does not find in memory: a cluster, or one of its KEKs.

    Attributes:
        cluster: The cluster's name.
        kek_id: The KEK to open. Empty: the call needs the cluster itself, by a read of the store
            that began after the call arrived.
    """

    cluster: str
    kek_id: bytes = b""


class NeedsLoad(Exception):  # noqa: N818  a request of the core, not an error
    """Raised by the core where something is not in memory."""

    def __init__(self, needs: Sequence[Need]) -> None:
        """Takes everything that the core found missing."""
        super().__init__()
        self.needs = needs


@dataclass(slots=True)
class Call:
    """One call: who makes it, and what was fetched for it.

    Attributes:
        rights: The caller's rights.
        arrived: When the call arrived or a moment later, monotonic seconds.
        own: KEKs whose unwrap began after the call arrived, by kek_id. They belong to this call
            alone. At TTL 0 a call gets a KEK in no other way.
        failed: Why each of these needs could not be met.
        read: Clusters read from the store since the call arrived.
        owners: The owning cluster of each KEK that the call's own cluster does not have; None
            where no cluster has it.
    """

    rights: Rights
    arrived: float = 0.0
    own: dict[bytes, CachedKek] = field(default_factory=dict)
    failed: dict[Need, KeyfoldError] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    owners: dict[bytes, str | None] = field(default_factory=dict)
