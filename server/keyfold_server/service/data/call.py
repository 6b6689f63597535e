"""One call of the data plane: its rights, what it still lacks, and what was fetched for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.rights import Rights
from keyfold_server.service.data.cache_entries import OpenKek


class Need(NamedTuple):
    """Something that a call lacks.

    Attributes:
        cluster: Whose.
        kek_id: The KEK to open; empty: the cluster itself, read after the call arrived.
    """

    cluster: str
    kek_id: bytes = b""


class NeedsLoad(Exception):  # noqa: N818  a request of the core, not an error
    """Raised by the core where something is not in memory."""

    def __init__(self, needs: Sequence[Need]) -> None:
        """Names all that is known to be lacking."""
        super().__init__()
        self.needs = needs


@dataclass(slots=True)
class Call:
    """Whose call it is, and what it has fetched for itself.

    Attributes:
        rights: What its caller may do.
        arrived: Monotonic seconds not before the call's arrival.
        own: KEKs opened by an unwrap that began after the call arrived, by kek_id. At TTL 0 this
            is the only way to a KEK; it belongs to this call alone.
        failed: Why a need could not be met.
        read: Clusters read from the store since the call arrived.
        owners: Whose a KEK is, where it is not this cluster's: None for nobody's.
    """

    rights: Rights
    arrived: float = 0.0
    own: dict[bytes, OpenKek] = field(default_factory=dict)
    failed: dict[Need, KeyfoldError] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    owners: dict[bytes, str | None] = field(default_factory=dict)
