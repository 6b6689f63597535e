"""Notices: facts about a region that an operator should know, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from keyfold_server.domain.cluster import Region
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.served_regions import ServedRegions


def not_described(described: Observation | None) -> str | None:
    """Returns a notice of a root key that Keyfold may not describe."""
    if described is None or described.health is Health.HEALTHY:
        return None
    lacks = described.missing_permission
    return (
        f"Keyfold may not describe the root key: {described.message}"
        + (f"; missing permission: {lacks}" if lacks else "")
        + "; Keyfold can use the key without it"
    )


def unserved(region: Region, served: ServedRegions) -> str | None:
    """Returns a notice of a region in service that no live replica serves."""
    if not region.in_service or served.serves(region.name):
        return None
    return (
        "no live replica serves this region: calls that need its keys fail, and nobody checks "
        "them; Revoke works"
    )


def deletion(region: Region, final: int | None) -> Iterator[str]:
    """Yields notices of what a deletion makes unreadable, and when that is final (protocol D4)."""
    if region.purge_time is None or final is None:
        return
    first, last = region.generations[0].number, region.newest.number
    what = f"generation {last}" if first == last else f"generations {first} to {last}"
    yield (
        f"deleted: after {time_text(region.purge_time / 1000)} Keyfold erases the keys, and "
        f"nothing opens any more what {what} wrapped; UndeleteCluster takes it back until then"
    )
    yield (
        f"backups may hold the keys until {time_text(final / 1000)}; destroying the root key at "
        "its KMS is final at once, for everything under that root key"
    )


def time_text(seconds: float) -> str:
    """Returns a time, in seconds of Unix time, as notices write it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
