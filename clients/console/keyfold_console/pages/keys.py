"""`/keys`: what depends on a root key, whether it may be disabled, and what would stop if it were.

Without a question the page lists the root keys of clusters: nobody has to know a uri by heart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from keyfold.calls.key_usage import first_key_usage
from keyfold.calls.pages import EVERYTHING, first_page
from keyfold.errors import InvalidInputError
from keyfold.models.key_usage import KeySelector, KeyUsage, KeyUse
from keyfold.models.specs import KeySpec
from keyfold.models.status import ClusterStatus, State
from keyfold.models.what_if import ImpactTime, KeyImpact, WhatIf
from keyfold_console import words
from keyfold_console.api import one_page
from keyfold_console.rendering import page

_USES: Final = 100
"""Uses on a page."""

_CLUSTERS: Final = 100
"""Clusters whose keys a page lists."""

_WORST: Final = ("bad", "warn", "quiet", "good")

ACTIONS: Final = {
    WhatIf.DISABLE: "disable the key",
    WhatIf.DELETE: "delete the key",
    WhatIf.REMOVE_WRAP_PERMISSION: "take away the permission to wrap",
    WhatIf.REMOVE_UNWRAP_PERMISSION: "take away the permission to unwrap",
    WhatIf.REMOVE_DESCRIBE_PERMISSION: "take away the permission to describe",
    WhatIf.REMOVE_PRINCIPAL: "remove the principal",
}
"""What a customer may do at the KMS, in words."""

_NEEDS: Final = {
    "use": "callers wrap and unwrap under this generation",
    "rotation": "the generation is retired; a rotation moves it, too, and needs the key",
    "restore": "the region is revoked or deleted; its Restore needs the key",
    "backups": "nothing that serves now; only a backup of that time needs the key",
}


@dataclass(slots=True)
class RootKey:
    """A root key, and what the clusters of a page use it for.

    Attributes:
        spec: The key.
        conditions: The condition of each region that uses it.
        clusters: The clusters of these regions.
    """

    spec: KeySpec
    conditions: list[words.Said] = field(default_factory=list)
    clusters: set[str] = field(default_factory=set)

    @property
    def worst(self) -> words.Said:
        """The worst condition of its regions."""
        return min(self.conditions, key=lambda said: _WORST.index(said.kind))


def routes() -> list[web.RouteDef]:
    """Returns this page's routes."""
    return [web.get("/keys", show)]


async def show(request: web.Request) -> web.Response:
    """Shows the uses of the root keys that the query chooses, or the root keys of clusters."""
    wanted = request.query
    selector = KeySelector(
        uri=wanted.get("uri", "").strip(),
        key_version=wanted.get("version", "").strip(),
        auth_principal=wanted.get("principal", "").strip(),
        holder=wanted.get("holder", "").strip(),
    )
    if selector == KeySelector():
        return await _listed(request)
    what_if = WhatIf.__members__.get(wanted.get("what_if", ""))
    call = first_key_usage(selector, _USES, what_if)
    try:
        usage, response = await one_page(request, call, wanted.get("page", ""))
    except InvalidInputError as error:
        return await _page(request, selector, what_if, status=400, fault=str(error))
    return await _page(request, selector, what_if, usage=usage, more=response.next_page_token)


async def _listed(request: web.Request) -> web.Response:
    call = first_page(EVERYTHING, _CLUSTERS)
    clusters, response = await one_page(request, call, request.query.get("page", ""))
    keys = root_keys(clusters)
    return await _page(request, KeySelector(), None, keys=keys, more=response.next_page_token)


async def _page(
    request: web.Request,
    selector: KeySelector,
    what_if: WhatIf | None,
    *,
    status: int = 200,
    usage: KeyUsage | None = None,
    keys: Iterable[RootKey] = (),
    more: str = "",
    fault: str = "",
) -> web.Response:
    return await page(
        request,
        "keys.html",
        status=status,
        selector=selector,
        what_if=what_if,
        actions=ACTIONS,
        usage=usage,
        verdict=verdict(usage) if usage else None,
        stopping=summary(usage.uses) if usage and what_if else "",
        needed_for=needed_for,
        needs=_NEEDS,
        stops=stops,
        when=when,
        afterwards=afterwards,
        keys=list(keys),
        asked=selector != KeySelector(),
        first="page" not in request.query,
        more=str(request.rel_url.update_query(page=more)) if more else "",
        fault=fault,
    )


def root_keys(clusters: Iterable[ClusterStatus]) -> list[RootKey]:
    """Returns the root keys that regions of clusters have now, by type and uri."""
    found: dict[tuple[str, str, str], RootKey] = {}
    for cluster in clusters:
        for region in cluster.regions:
            spec = region.key_spec
            key = found.setdefault((spec.type, spec.uri, spec.auth_principal), RootKey(spec))
            key.conditions.append(words.condition(region))
            key.clusters.add(cluster.cluster)
    return [key for _, key in sorted(found.items())]


def verdict(usage: KeyUsage) -> words.Said:
    """Returns whether the keys may be disabled."""
    if usage.safe_to_disable is None:
        return words.Said("You may not know", "warn", "The lines below say whom to ask.")
    if usage.safe_to_disable:
        return words.Said(
            "Safe to disable",
            "good",
            "No cluster needs the key now. Disable it, but do not delete it: a backup may need it.",
        )
    return words.Said("Not safe to disable", "bad", "Something needs the key now.")


def needed_for(use: KeyUse) -> str:
    """Returns what the root key of a use is needed for."""
    if use.superseded:
        return "backups"
    if use.state is not State.ENABLED:
        return "restore"
    return "rotation" if use.retired else "use"


def stops(impact: KeyImpact) -> str:
    """Returns what stops for a use."""
    told = (
        (impact.stops_wrap, "wrap"),
        (impact.stops_unwrap, "unwrap"),
        (impact.stops_rotation, "rotate"),
    )
    return ", ".join(word for stops, word in told if stops) or "nothing"


def when(impact: KeyImpact) -> str:
    """Returns when it stops."""
    if not impact.stops:
        return "never"
    within = words.duration(impact.stops_within)
    if not impact.stops_within:
        return "at once"
    if impact.when is ImpactTime.AT_ONCE:
        return f"at once after a recheck, or within {within}"
    return f"within {within}"


def afterwards(impact: KeyImpact) -> str:
    """Returns what becomes of a use once the action has been taken back."""
    if not impact.stops:
        return ""
    if impact.resumes:
        return "resumes by itself"
    return f"needs a person: {impact.needs}" if impact.needs else "is lost for good"


def summary(uses: Iterable[KeyUse]) -> str:
    """Returns in one line how many regions of a page would stop."""
    current = [(use, use.impact) for use in uses if use.impact and not use.superseded]
    every = {(use.cluster, use.region) for use, _ in current}
    serving = {(use.cluster, use.region) for use, impact in current if impact.stops_unwrap}
    stopping = {(use.cluster, use.region) for use, impact in current if impact.stops}
    parts = []
    if serving:
        parts.append(f"{len(serving)} of {words.count(len(every), 'region')} stop serving")
    if rotating := stopping - serving:
        parts.append(f"{words.count(len(rotating), 'region')} can no longer be rotated")
    return " and ".join(parts) or "nothing stops"
