"""Usage: how often callers used the keys of a cluster, minute by minute.

The counts are observations (protocol S7): they decide nothing, and a process that is killed loses
those of its last minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from keyfold_server.domain.rights import Coverage

MINUTE: Final = 60_000
"""Milliseconds of the span over which uses are counted."""


class UsageKey(NamedTuple):
    """What uses have in common that are counted together.

    Attributes:
        time: When their span began, in milliseconds of Unix time: a whole minute, or what a query
            made of several.
        cluster: The cluster's name.
        region: The region's name; empty if the call does not show it, as that of Rewrap.
        caller: The caller's name.
        method: The method's name.
        outcome: `OK`, or the reason of the error.
    """

    time: int
    cluster: str
    region: str
    caller: str
    method: str
    outcome: str


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Selects uses. A field that is None selects all.

    Attributes:
        cluster: Those of this cluster.
        organization: Those of clusters of this organization.
        caller: Those by this caller.
        start: Those at or after this time, in milliseconds of Unix time.
        end: Those before this time, in milliseconds of Unix time.
        span: Milliseconds, a multiple of `MINUTE`, over which counts are added up.
    """

    cluster: str | None = None
    organization: str | None = None
    caller: str | None = None
    start: int | None = None
    end: int | None = None
    span: int = MINUTE


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """A page of counts.

    Attributes:
        which: Selects uses.
        covered: Only those of clusters that one of the entries covers.
        after: The last count of the page before; None: the first page.
        limit: Most counts to read.
    """

    which: UsageFilter
    covered: tuple[Coverage, ...]
    after: UsageKey | None
    limit: int


@dataclass(frozen=True, slots=True)
class UsageRows:
    """What the store has of a page.

    Attributes:
        rows: The counts, in the order of their keys.
        read_at: When the store read them, by its own clock, in milliseconds of Unix time.
    """

    rows: list[tuple[UsageKey, int]]
    read_at: int
