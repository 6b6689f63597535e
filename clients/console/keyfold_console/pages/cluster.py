"""`/clusters/{cluster}`: what a cluster's keys are, how they do, who uses them and who did what."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from aiohttp import web

from keyfold.calls.events import EventFilter
from keyfold.calls.usage import UsageFilter, first_usage
from keyfold.models.events import Event, EventKind
from keyfold.models.status import ClusterStatus, RegionStatus, State
from keyfold.models.usage import UsageCount
from keyfold_console import words
from keyfold_console.api import caller_of, client_of, newest_events, one_page
from keyfold_console.rendering import page

_MOST: Final = 15
"""Events of each kind that the page shows."""

_CALLERS: Final = 10
"""Callers that the page shows."""

_DAY: Final = timedelta(days=1)

_OF_HEALTH: Final = (EventKind.REFUSAL, EventKind.HEALTH)

_OF_PEOPLE: Final = (
    EventKind.DECISION,
    EventKind.ATTEMPT,
    EventKind.BAN,
    EventKind.SEAL,
    EventKind.ERASURE,
    EventKind.IMPORT,
    EventKind.RECONCILIATION,
)

DONE: Final = {
    "recheck": "The customer's KMS was asked just now. What it answered is below.",
    "rotate": "Rotated. Wrapped keys stay valid, and Keyfold needs the old key no longer.",
    "revoke": "Revoked. Keyfold refuses all use of these keys until somebody restores them.",
    "restore": "The keys were proven again. Regions whose key works are back in service.",
}
"""What the page says after an action, by the word in its address."""


@dataclass(frozen=True, slots=True)
class Use:
    """How much a caller used the keys.

    Attributes:
        caller: The caller's name.
        count: How many times the caller used them.
        failed: How many of these times the server refused, or could not do it.
    """

    caller: str
    count: int
    failed: int


def routes() -> list[web.RouteDef]:
    """Returns this page's routes."""
    return [web.get("/clusters/{cluster}", show)]


async def show(request: web.Request) -> web.Response:
    """Shows a cluster."""
    name = request.match_info["cluster"]
    status, visitor = await asyncio.gather(client_of(request).get_status(name), caller_of(request))
    reads = visitor.may("ListEvents", name, status.organization)
    (health, _), (people, _), uses = (
        await asyncio.gather(
            newest_events(request, EventFilter(cluster=name, kinds=_OF_HEALTH), _MOST),
            newest_events(request, EventFilter(cluster=name, kinds=_OF_PEOPLE), _MOST),
            _uses(request, name),
        )
        if reads
        else (((), False), ((), False), ())
    )
    return await page(
        request,
        "cluster.html",
        cluster=status,
        amiss=amiss(status),
        who=lambda region: _who(region, people),
        may=lambda method: visitor.may(method, name, status.organization),
        reads=reads,
        health=health,
        people=people,
        uses=uses,
        done=DONE.get(request.query.get("done", ""), ""),
        operation=request.query.get("operation", ""),
        enabled=any(one.state is State.ENABLED for one in status.regions),
        revoked=any(one.state is State.REVOKED for one in status.regions),
    )


def amiss(status: ClusterStatus) -> list[list[RegionStatus]]:
    """Returns the regions that need a person; those with one fault of one key together."""
    found: dict[object, list[RegionStatus]] = {}
    for one in status.regions:
        said = words.condition(one)
        if said.kind in ("bad", "warn"):
            why = (said.word, one.key_spec.uri, one.last_error and one.last_error.reason)
            found.setdefault(why, []).append(one)
    return list(found.values())


def _who(region: RegionStatus, people: Iterable[Event]) -> Event | None:
    """Returns the decision that took a region out of service; None: it is not among these."""
    if region.state is State.ENABLED:
        return None
    return next((one for one in people if region.region in one.revoked | one.deleted), None)


async def _uses(request: web.Request, cluster: str) -> tuple[Use, ...]:
    """Returns who used the keys within a day, the busiest first."""
    since = datetime.now(UTC) - _DAY
    # One count for each caller, method and outcome: the span is longer than the time asked for.
    wanted = UsageFilter(cluster=cluster, start=since, span=timedelta(days=31))
    found, _ = await one_page(request, first_usage(wanted, 1_000), "")
    return added_up(found)[:_CALLERS]


def added_up(counts: Iterable[UsageCount]) -> tuple[Use, ...]:
    """Returns the uses of each caller, the busiest first."""
    every, failed = Counter[str](), Counter[str]()
    for one in counts:
        every[one.caller] += one.count
        failed[one.caller] += one.count if one.outcome != "OK" else 0
    return tuple(Use(caller, count, failed[caller]) for caller, count in every.most_common())
