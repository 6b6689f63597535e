"""`/`: how the regions do, what needs a person, and what happened last.

Whoever comes with a token of one organization, and no wider grant, is led to its own page.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from aiohttp import web

from keyfold.calls.events import EventFilter
from keyfold.calls.pages import EVERYTHING, ClusterFilter, first_page
from keyfold.models.caller import CallerIdentity
from keyfold.models.events import EventKind
from keyfold.models.status import ClusterStatus, Health, RegionStatus, State
from keyfold_console import timeline, words
from keyfold_console.api import caller_of, newest_events, one_page
from keyfold_console.rendering import page

_LOOKED_AT: Final = 1_000
"""Clusters, by name, that the figures and the timeline are about."""

_OF_EACH: Final = 20
"""Clusters of each fault that are looked at beyond those."""

_LISTED: Final = 25
"""Rows of what needs a person."""

_NOTICES: Final = 5
"""Notices that are shown: those of the most clusters."""

_RECENT: Final = 12
"""Events of what happened last."""

_EVENTS: Final = 1_000
"""Events from which the timeline is made: the newest."""

_HOURS: Final = 24

_EPOCH: Final = datetime.fromtimestamp(0, UTC)

_FAULTS: Final = (
    ClusterFilter(state=State.REVOKED),
    ClusterFilter(state=State.DELETED),
    ClusterFilter(can_wrap=False),
    *(
        ClusterFilter(health=one)
        for one in Health
        if one not in (Health.UNSPECIFIED, Health.UNKNOWN, Health.HEALTHY)
    ),
)

_TOLD: Final = (
    EventKind.DECISION,
    EventKind.REFUSAL,
    EventKind.HEALTH,
    EventKind.BAN,
    EventKind.ERASURE,
    EventKind.IMPORT,
    EventKind.RECONCILIATION,
    EventKind.SEAL,
)


@dataclass(frozen=True, slots=True)
class Case:
    """What needs a person: regions of a cluster with the same fault of one key.

    Attributes:
        cluster: The cluster.
        regions: The regions.
        said: What is wrong.
        since: Since when; None: nobody knows.
    """

    cluster: ClusterStatus
    regions: tuple[RegionStatus, ...]
    said: words.Said
    since: datetime | None


def routes() -> list[web.RouteDef]:
    """Returns this page's routes."""
    return [web.get("/", show)]


async def show(request: web.Request) -> web.Response:
    """Shows all that the visitor may see at a glance."""
    visitor = await caller_of(request)
    if not visitor.grants:
        return await page(request, "no_grant.html", status=403)
    if is_of_one_organization(visitor):
        raise web.HTTPSeeOther(request.rel_url.with_path(f"/organizations/{visitor.organization}"))
    reads = visitor.may("ListEvents")
    now = datetime.now(UTC)
    begins = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=_HOURS - 1)
    first, response = await one_page(request, first_page(EVERYTHING, _LOOKED_AT), "")
    others: list[tuple[ClusterStatus, ...]] = []
    if response.next_page_token:
        others = list(await asyncio.gather(*(_faulty(request, one) for one in _FAULTS)))
    (recent, _), (of_day, older) = (
        await asyncio.gather(
            newest_events(request, EventFilter(kinds=_TOLD), _RECENT),
            newest_events(request, EventFilter(kinds=_TOLD[:3], start=begins), _EVENTS),
        )
        if reads
        else (((), False), ((), False))
    )
    known = {one.cluster: one for some in (first, *others) for one in some}
    cases = needing(list(known.values()))
    regions = [region for one in first for region in one.regions]
    return await page(
        request,
        "overview.html",
        reads=reads,
        clusters=len(first),
        all_of_them=not response.next_page_token,
        regions=len(regions),
        well=sum(words.condition(one).kind == "good" for one in regions),
        revoked=sum(one.state is State.REVOKED for one in regions),
        cases=cases[:_LISTED],
        more_cases=max(0, len(cases) - _LISTED),
        notices=noticed(regions),
        spoilt=[*response.not_authentic, *response.banned],
        known_since=of_day[-1].time if older and of_day else None,
        rows=timeline.rows(first, of_day, begins, now),
        hours=[(begins + timedelta(hours=one)).strftime("%H:%M") for one in range(_HOURS)],
        recent=recent,
    )


def is_of_one_organization(visitor: CallerIdentity) -> bool:
    """Returns whether a token's organization is all that the visitor's grants cover."""
    own = (visitor.organization,)
    return bool(visitor.organization and visitor.grants) and all(
        one.organization_patterns == own for one in visitor.grants
    )


def needing(clusters: list[ClusterStatus]) -> list[Case]:
    """Returns what needs a person, the worst and then the newest first."""
    cases = []
    for cluster in clusters:
        found: dict[object, list[RegionStatus]] = {}
        for region in cluster.regions:
            said = words.condition(region)
            if said.kind in ("bad", "warn"):
                found.setdefault((said.word, region.key_spec.uri), []).append(region)
        for regions in found.values():
            times = (
                one.health_time if one.state is State.ENABLED else one.state_time for one in regions
            )
            since = min((one for one in times if one is not None), default=None)
            cases.append(Case(cluster, tuple(regions), words.condition(regions[0]), since))
    cases.sort(key=lambda one: (one.said.kind != "bad", -(one.since or _EPOCH).timestamp()))
    return cases


def noticed(regions: list[RegionStatus]) -> list[tuple[str, str, int]]:
    """Returns notices of enabled regions, each with its region and how many clusters have it."""
    found = Counter(
        (one.region, notice)
        for one in regions
        if one.state is State.ENABLED
        for notice in one.notices
    )
    return [(region, notice, count) for (region, notice), count in found.most_common(_NOTICES)]


async def _faulty(request: web.Request, narrow: ClusterFilter) -> tuple[ClusterStatus, ...]:
    found, _ = await one_page(request, first_page(narrow, _OF_EACH), "")
    return found
