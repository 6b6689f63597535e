"""`/events`: what happened to keys and who did it, from the sealed log, and one entry in full."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Final

from aiohttp import web

from keyfold.calls.events import EventFilter, first_events
from keyfold.errors import InvalidInputError
from keyfold.models.events import Event, EventKind
from keyfold_console.api import one_page
from keyfold_console.rendering import page

_PAGE: Final = 50
"""Events on a page."""

WITHIN: Final = {
    "hour": ("the last hour", timedelta(hours=1)),
    "day": ("the last day", timedelta(days=1)),
    "week": ("the last 7 days", timedelta(days=7)),
    "month": ("the last 31 days", timedelta(days=31)),
}
"""Times that the filter offers: their words, and how long they are."""

_KINDS: Final = tuple(
    kind for kind in EventKind if kind not in (EventKind.UNSPECIFIED, EventKind.UNKNOWN)
)


class _WrongTimeError(ValueError):
    """A time in the query is not one."""


def routes() -> list[web.RouteDef]:
    """Returns this page's routes."""
    return [web.get("/events", show), web.get(r"/events/{number:[0-9]{1,18}}", show_one)]


async def show(request: web.Request) -> web.Response:
    """Lists events, the newest first, narrowed by what the query says."""
    try:
        narrow = narrowed(request)
        call = first_events(narrow, newest_first=True, page_size=_PAGE)
        events, response = await one_page(request, call, request.query.get("page", ""))
    except (_WrongTimeError, InvalidInputError) as error:
        return await _listed(request, EventFilter(), (), "", status=400, fault=str(error))
    return await _listed(request, narrow, events, response.next_page_token)


async def _listed(
    request: web.Request,
    narrow: EventFilter,
    events: tuple[Event, ...],
    more: str,
    *,
    status: int = 200,
    fault: str = "",
) -> web.Response:
    return await page(
        request,
        "events.html",
        status=status,
        wanted=request.query,
        narrow=narrow,
        narrowed=narrow != EventFilter(),
        events=events,
        kinds=_KINDS,
        within=WITHIN,
        field=_field,
        first="page" not in request.query,
        more=_further(request, narrow, more) if more else "",
        fault=fault,
    )


def _further(request: web.Request, narrow: EventFilter, token: str) -> str:
    """Returns the address of the next page, with the very time from which this one counts."""
    url = request.rel_url.without_query_params("within").update_query(page=token)
    if narrow.start is not None:
        url = url.update_query({"from": _field(narrow.start)})
    return str(url)


def _field(time: datetime | None) -> str:
    """Returns a time as a form's field has it."""
    return "" if time is None else time.replace(tzinfo=None).isoformat()


async def show_one(request: web.Request) -> web.Response:
    """Shows all that is known of an event."""
    number = int(request.match_info["number"])
    call = first_events(EventFilter(first=number, last=number), newest_first=False, page_size=1)
    events, _ = await one_page(request, call, "")
    if not events:
        raise web.HTTPNotFound
    [event] = events
    detail = json.dumps(event.detail, indent=2, ensure_ascii=False, sort_keys=True)
    return await page(
        request,
        "event.html",
        event=event,
        detail=detail if event.detail else "",
    )


def narrowed(request: web.Request) -> EventFilter:
    """Returns the filter that a query says.

    Raises:
        _WrongTimeError: A time in it is not one.
    """
    wanted = request.query

    def text(name: str) -> str:
        return wanted.get(name, "").strip()

    start = _time(text("from"))
    if start is None and text("within") in WITHIN:
        start = datetime.now(UTC).replace(microsecond=0) - WITHIN[text("within")][1]
    return EventFilter(
        cluster=text("cluster"),
        organization=text("organization"),
        key_uri=text("key_uri"),
        caller=text("caller"),
        kinds=tuple(kind for kind in _KINDS if kind in wanted.getall("kind", [])),
        outcome=text("outcome"),
        only_refused=text("refused") == "1",
        start=start,
        end=_time(text("to")),
        action=text("action"),
    )


def _time(text: str) -> datetime | None:
    """Reads a time of a form, which has no zone and means UTC."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise _WrongTimeError(
            f"{text} is not a time; write it in UTC, such as 2026-11-30T08:15"
        ) from None
