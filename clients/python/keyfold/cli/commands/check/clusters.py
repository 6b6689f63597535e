"""Checks of the clusters that the caller may see: the health of regions, and the probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from keyfold import probe as probing
from keyfold.checks import Finding, failure, ok, unknown, warning
from keyfold.cli.commands.check.service import Fleet
from keyfold.errors import ClusterBannedError, KeyfoldError, RowNotAuthenticError
from keyfold.models.status import ClusterStatus, Health, RegionStatus, State

_MOST: Final = 20
"""Most lines of regions that are not as they must be."""

_GOOD: Final = (Health.HEALTHY, Health.UNKNOWN)
"""The health of regions about which nobody has to do anything; UNKNOWN was not asked yet."""


def regions(fleet: Fleet) -> Iterator[Finding]:
    """Says how the regions in service are, as far as the caller may see them."""
    client = next(iter(fleet.clients.values()), None)
    if client is None or fleet.identity is None:
        yield unknown("regions", "no server answered", "mend the lines above first")
        return
    if not fleet.identity.may("ListClusters"):
        yield unknown(
            "regions",
            "the caller may not list clusters",
            "check with a caller that has the role auditor or operator",
        )
        return
    count: Counter[State] = Counter()
    told, whole = 0, True
    try:
        for cluster in client.list_clusters():
            for region in cluster.regions:
                count[region.state] += 1
                found = _of_region(cluster, region)
                if found is not None:
                    told += 1
                    if told <= _MOST:
                        yield found
    except KeyfoldError as error:
        whole = False
        yield _not_listed(error)
    if told > _MOST:
        more = "`keyfold clusters` lists all of them"
        yield failure("regions", f"{told - _MOST:,} further regions are not as they must be", more)
    states = ", ".join(f"{number:,} {state.value}" for state, number in sorted(count.items()))
    if whole and not told:
        yield ok("regions", f"{states or 'none'}; the KMS of each in service does what it must")


def _not_listed(error: KeyfoldError) -> Finding:
    seen = f"{error.message} ({error.reason})"
    if isinstance(error, RowNotAuthenticError | ClusterBannedError):
        do = "docs/operations.md has a section on rows that are not authentic"
        return failure("regions", seen, do)
    do = "`keyfold-server check` says why, on the machine of a server"
    return unknown("regions", f"nobody knows how they are: {seen}", do)


def _of_region(cluster: ClusterStatus, region: RegionStatus) -> Finding | None:
    name = f"region {cluster.cluster}/{region.region}"
    do = f"`keyfold status {cluster.cluster}` says since when, and what to do"
    if region.state is not State.ENABLED:
        return None
    if region.health not in _GOOD:
        why = "" if region.last_error is None else f": {region.last_error.message}"
        since = "" if region.health_time is None else f" since {region.health_time:%Y-%m-%d %H:%M}"
        return failure(name, f"{region.health.value}{since}{why}", do)
    if region.can_wrap is False:
        return warning(name, "its root key opens and does not wrap", do)
    return None


def probed(fleet: Fleet, cluster: str) -> Iterator[Finding]:
    """Takes a cluster through a revocation on every server."""
    if not fleet.clients:
        yield unknown("probe", "no server answered", "mend the lines above first")
        return
    do = f"`keyfold probe {cluster}` repeats it; docs/operations.md has what each step means"
    try:
        steps = probing.probe(fleet.clients, cluster)
    except KeyfoldError as error:
        yield unknown("probe", f"{error.message} ({error.reason})", do)
        return
    bad = False
    for step in steps:
        if step.broken:
            bad = True
            yield failure("probe", f"{step.server} at {step.step}: {step.broken}", do)
        elif step.error is not None:
            bad = True
            seen = f"{step.server} at {step.step}: {step.error.message} ({step.error.reason})"
            yield unknown("probe", seen, do)
    if not bad:
        took = next((one.seconds for one in steps if one.step == "refused"), 0.0)
        yield ok("probe", f"every server refused within {took:.2f} s of Revoke, and serves again")
