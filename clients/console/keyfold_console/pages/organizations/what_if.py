"""What would stop if the customer did something to a key at its KMS, before anybody does it.

It asks no KMS and changes nothing, so it is a page to look at, with an address that can be sent on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from keyfold import ImpactTime, KeyImpact, KeySelector, KeyUsage, KeyUse, WhatIf
from keyfold.calls.key_usage import first_key_usage
from keyfold.errors import InvalidInputError
from keyfold_console import words
from keyfold_console.api import one_page
from keyfold_console.pages.organizations import plain
from keyfold_console.pages.organizations.frame import everything, framed, shown, told

_PATH: Final = "/organizations/{organization}/what-if"

_ROWS: Final = 500
"""Most uses that one page shows and counts."""

ACTIONS: Final = {
    WhatIf.DISABLE: "disable the key",
    WhatIf.DELETE: "delete the key",
    WhatIf.REMOVE_UNWRAP_PERMISSION: "take the permission to decrypt away",
    WhatIf.REMOVE_WRAP_PERMISSION: "take the permission to encrypt away",
    WhatIf.REMOVE_DESCRIBE_PERMISSION: "take the permission to look at the key away",
    WhatIf.REMOVE_PRINCIPAL: "remove the role or account that the service uses",
}
"""What a customer may do at the KMS, in its own words."""

ANSWERS: Final = {
    True: (plain.GOOD, "Safe to disable: nothing that serves now needs this key."),
    False: (plain.BAD, "Not safe to disable: this key is needed."),
    None: (plain.WARN, "Nobody can tell you whether this key is safe to disable."),
}
"""Whether a key may be disabled, as a mark and a sentence."""


@dataclass(frozen=True, slots=True)
class Row:
    """What happens to one use.

    Attributes:
        use: The use.
        impact: What happens to it.
        stops: What stops, in words; empty: nothing.
        when: When it stops, in words.
        then: What becomes of it once the customer takes it back.
    """

    use: KeyUse
    impact: KeyImpact
    stops: str
    when: str
    then: str


def routes() -> list[web.RouteDef]:
    """Returns the routes of this page."""
    return [web.get(_PATH, show)]


async def show(request: web.Request) -> web.Response:
    """Shows the question and, if the query asks it, the answer."""
    frame = await framed(request, "what-if")
    key = request.query.get("key", "").strip()
    action = WhatIf.__members__.get(request.query.get("action", ""), WhatIf.DISABLE)
    usage, error, more = None, None, False
    if key:
        call = first_key_usage(KeySelector(uri=key), _ROWS, action)
        try:
            usage, response = await one_page(request, call, "")
            more = bool(response.next_page_token)
        except InvalidInputError as refused:
            error = told(refused)
    links, clusters = await everything(request, frame.name)
    linked = [link.key_spec.uri for link in links.items if link.key_spec]
    own = [
        region.key_spec.uri
        for cluster in clusters.items
        for region in cluster.regions
        if region.key_spec.uri
    ]
    rows = _rows(usage) if usage else []
    return await shown(
        request,
        frame,
        "what_if.html",
        status=422 if error else 200,
        key=key,
        action=action,
        actions=ACTIONS,
        keys=sorted({*linked, *own}),
        usage=usage,
        answer=ANSWERS[usage.safe_to_disable] if usage else None,
        summary=summary(rows, usage.hidden) if usage else None,
        rows=rows,
        more=more,
        error=error,
    )


def _rows(usage: KeyUsage) -> list[Row]:
    """Returns what matters now: uses that only backups need stay out."""
    return [
        Row(use, use.impact, _stops(use.impact), _when(use.impact), _then(use.impact))
        for use in usage.uses
        if use.impact is not None and (use.impact.stops or not use.superseded)
    ]


def summary(rows: Sequence[Row], hidden: int) -> tuple[str, str]:
    """Returns a mark and a sentence: how much stops, when, and what comes back by itself."""
    stopping = [row for row in rows if row.impact.stops]
    if not stopping:
        kind = plain.WARN if hidden else plain.GOOD
        return kind, "Nothing that you can see stops." if hidden else "Nothing stops."
    serving = _regions(row for row in stopping if row.impact.stops_unwrap)
    rotating = _regions(stopping) - serving
    parts = []
    if serving:
        parts.append(f"{_count(serving)} cannot be read any more")
    if rotating:
        parts.append(f"{_count(rotating)} cannot be rotated any more")
    within = max(row.impact.stops_within for row in stopping)
    when = f"within {words.duration(within)} at the latest" if within else "at once"
    kind = plain.BAD if serving else plain.WARN
    return kind, f"{' and '.join(parts)}, {when}. {_afterwards(stopping)}"


def _regions(rows: Iterable[Row]) -> set[tuple[str, str]]:
    return {(row.use.cluster, row.use.region) for row in rows}


def _count(regions: set[tuple[str, str]]) -> str:
    if len(regions) == 1:
        cluster, region = next(iter(regions))
        return f"{cluster} in {region}"
    return f"{len(regions):,} regions of your clusters"


def _afterwards(stopping: Sequence[Row]) -> str:
    impacts = [row.impact for row in stopping]
    if all(impact.resumes for impact in impacts):
        return "Everything resumes by itself once you take it back."
    if any(not impact.resumes and not impact.needs for impact in impacts):
        return "Some of it never comes back."
    return "Some of it needs a person besides, once you take it back."


def _stops(impact: KeyImpact) -> str:
    parts = [
        word
        for stops, word in (
            (impact.stops_wrap, "new data keys"),
            (impact.stops_unwrap, "reading"),
            (impact.stops_rotation, "rotation"),
        )
        if stops
    ]
    return ", ".join(parts)


def _when(impact: KeyImpact) -> str:
    if not impact.stops or impact.when is ImpactTime.NEVER:
        return "never"
    within = words.duration(impact.stops_within) if impact.stops_within else ""
    if impact.when is ImpactTime.AT_ONCE:
        return f"at the next check, or within {within}" if within else "at once"
    return f"within {within}"


def _then(impact: KeyImpact) -> str:
    if not impact.stops:
        return "goes on"
    if impact.resumes:
        return "resumes by itself"
    return f"needs a person: {impact.needs}" if impact.needs else "is lost"
