"""The pages of ListUsage, and which counts a caller may see.

A count is visible to who may read the usage of its cluster and region. The counts themselves are
observations; whose cluster it is comes from rows that Keyfold verifies (protocol C7).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import InvalidPageError
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.rights import Rights
from keyfold_server.domain.usage import MINUTE, UsageFilter, UsageKey, UsageQuery
from keyfold_server.service import tokens
from keyfold_server.service.storage import Storage

_RPC: Final = "ListUsage"

MAX_PAGE: Final = 1_000
"""Most counts on one page."""

DEFAULT_PAGE: Final = 100
"""Counts on a page if the request does not say how many."""

_LONGEST: Final = 31 * 24 * 60 * MINUTE
"""Milliseconds of the longest span over which counts are added up."""

_READS: Final = 5
"""Reads of the store after which a page ends, however few counts it shows."""

_PURPOSE: Final = "page of usage"
_DIGEST: Final = 8


@dataclass(frozen=True, slots=True)
class UsageCount:
    """A count, with the organization of its cluster.

    Attributes:
        key: What was counted.
        organization: The cluster's organization, or None.
        count: How many uses.
    """

    key: UsageKey
    organization: str | None
    count: int


@dataclass(frozen=True, slots=True)
class UsagePage:
    """One page of counts.

    Attributes:
        counts: The counts.
        next_token: The token of the next page; empty: there is none.
        read_at: When they were read, by the store's clock, in milliseconds of Unix time.
    """

    counts: tuple[UsageCount, ...]
    next_token: str
    read_at: int


class Usage:
    """Answers ListUsage."""

    def __init__(
        self, storage: Storage, clock: Clock, *, check_fresh: Callable[[float], None]
    ) -> None:
        """Joins ListUsage to the store.

        Args:
            storage: The store.
            clock: Time.
            check_fresh: Raises if this replica is stale; see `Status`.
        """
        self._storage = storage
        self._clock = clock
        self._check_fresh = check_fresh

    async def page(self, rights: Rights, which: UsageFilter, size: int, token: str) -> UsagePage:
        """Returns a page of counts, by time, cluster, region, caller, method and outcome.

        Raises:
            InvalidPageError: The size or the span is out of bounds, or the token is not valid.
            StoreStaleError: This replica has not seen the store for too long.
        """
        if not 0 <= size <= MAX_PAGE:
            raise InvalidPageError(f"page_size must be 0 to {MAX_PAGE:,}", field="page_size")
        if which.span % MINUTE or not MINUTE <= which.span <= _LONGEST:
            raise InvalidPageError(
                "span must be a whole number of minutes, 1 minute to 31 days", field="span"
            )
        self._check_fresh(self._clock.monotonic())
        asked = sha256(repr(which).encode()).digest()[:_DIGEST]
        after = self._key_in(token, asked)
        covered = rights.coverage(which.organization, _RPC)
        size = size or DEFAULT_PAGE
        found: list[UsageCount] = []
        read_at = 0
        for _ in range(_READS):
            query = UsageQuery(which, covered, after, size + 1)
            read = await self._storage.run(self._storage.store.usage, query)
            read_at = read_at or read.read_at
            found += await self._shown(rights, which, read.rows)
            if len(found) > size:
                last = found[size - 1].key
                return UsagePage(tuple(found[:size]), self._token(last, asked), read_at)
            if len(read.rows) <= size:
                return UsagePage(tuple(found), "", read_at)
            after = read.rows[-1][0]
        assert after is not None  # noqa: S101  a page that is not the last has rows
        return UsagePage(tuple(found), self._token(after, asked), read_at)

    async def _shown(
        self, rights: Rights, which: UsageFilter, rows: Iterable[tuple[UsageKey, int]]
    ) -> list[UsageCount]:
        """Returns those of some counts that the caller may see."""
        rows = list(rows)
        names = sorted({key.cluster for key, _ in rows})
        known = await self._storage.run(self._storage.store.named, names) if names else {}
        shown = []
        for key, count in rows:
            cluster = known.get(key.cluster)
            organization = cluster.organization if isinstance(cluster, Cluster) else None
            if which.organization not in (None, organization):
                continue
            # A count without a region is of all regions, hidden ones among them.
            if (
                rights.covers(_RPC, key.cluster, organization, key.region)
                if key.region
                else rights.covers_all_regions(_RPC, key.cluster, organization)
            ):
                shown.append(UsageCount(key, organization, count))
        return shown

    def _token(self, last: UsageKey, asked: bytes) -> str:
        data = asked + json.dumps(last, ensure_ascii=True).encode()
        return tokens.sealed(self._storage.store.mac, _PURPOSE, data)

    def _key_in(self, token: str, asked: bytes) -> UsageKey | None:
        """Returns the last count of the page before; None for the first page."""
        if not token:
            return None
        data = tokens.opened(self._storage.store.mac, _PURPOSE, token)
        if data is None or data[:_DIGEST] != asked:
            raise InvalidPageError(
                "page_token is not one that this server gave out for this filter; pass "
                "next_page_token back as it came, with the same filter",
                field="page_token",
            )
        return UsageKey(*json.loads(data[_DIGEST:]))
