"""What happened to a customer's keys, newest first: a sentence for each event, and its fields."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from keyfold import Event, EventFilter
from keyfold.calls.events import first_events
from keyfold_console.api import one_page
from keyfold_console.pages.organizations import sentences
from keyfold_console.pages.organizations.frame import ROWS, framed, shown

_PATH: Final = "/organizations/{organization}/events"

_EMPTY_PAGES: Final = 5
"""Most pages without an event that are skipped at once: the server bounds the work of each."""


def routes() -> list[web.RouteDef]:
    """Returns the routes of this page."""
    return [web.get(_PATH, show)]


async def show(request: web.Request) -> web.Response:
    """Shows a page of events, narrowed by what the query says."""
    frame = await framed(request, "events")
    wanted = request.query
    narrow = EventFilter(
        organization=frame.name,
        cluster=wanted.get("cluster", "").strip(),
        key_uri=wanted.get("key", "").strip(),
        only_refused="refused" in wanted,
    )
    events: tuple[Event, ...] = ()
    token = wanted.get("page", "")
    for _ in range(_EMPTY_PAGES):
        call = first_events(narrow, newest_first=True, page_size=ROWS)
        events, response = await one_page(request, call, token)
        token = response.next_page_token
        if events or not token:
            break
    more = request.rel_url.update_query(page=token)
    return await shown(
        request,
        frame,
        "events.html",
        events=events,
        narrow=narrow,
        first="page" not in wanted,
        more=str(more) if token else "",
        sentences=sentences,
    )
