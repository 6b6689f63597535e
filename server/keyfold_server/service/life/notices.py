"""Notices: facts about a region that an operator should know, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from keyfold_server.domain.cluster import Region
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.region_health import RegionHealth
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


def another_view(region: Region, health: RegionHealth, own_since: int) -> str | None:
    """Returns a notice that a region's own replicas and the others get other answers of its KMS.

    Args:
        region: The region.
        health: What its own replicas saw, and what replicas saw that serve every region.
        own_since: Milliseconds of Unix time; what was seen before is out of date.
    """
    own, common = health.own, health.common
    if not region.in_service or not health.own_decides or own is None or common is None:
        return None
    if common.last_check < own_since or own.last_check < own_since:
        return None
    others = "replicas that serve every region"
    if own.health is not Health.HEALTHY:
        if common.health is not Health.HEALTHY or common.last_check < own.since:
            return None
        return (
            f"{others} used the root key at {time_text(common.last_check / 1000)}: look at the way "
            "of this region's own replicas to the KMS, and at their identity"
        )
    if common.health in (Health.HEALTHY, Health.UNKNOWN):
        return None
    return (
        f"{others} do not get the key: {common.health.value} since "
        f"{time_text(common.since / 1000)}; this region's own replicas do"
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
