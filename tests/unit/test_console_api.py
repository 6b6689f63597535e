"""How the console reads the log, whose pages may be empty and have a next one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from keyfold.calls.events import EventFilter
from keyfold.models.events import Event, EventKind
from keyfold.v1.event_service_pb2 import ListEventsResponse
from keyfold_console import api


def event(number: int) -> Event:
    """Returns an entry of the log."""
    return Event(number, "", datetime.now(UTC), EventKind.DECISION, "rpc:cluster:enable", "done")


def reading(monkeypatch: pytest.MonkeyPatch, *pages: tuple[int, ...]) -> list[str]:
    """Has the server answer with pages of events, by their numbers; returns the tokens it got."""
    got: list[str] = []

    async def one_page(_request: object, _call: object, token: str) -> Any:
        place = len(got)
        got.append(token)
        more = f"page {place + 1}" if place + 1 < len(pages) else ""
        found = tuple(event(number) for number in pages[place])
        return found, ListEventsResponse(next_page_token=more)

    monkeypatch.setattr(api, "one_page", one_page)
    return got


async def newest(most: int) -> tuple[list[int], bool]:
    """Returns the numbers of the events that a page of the console shows."""
    request = make_mocked_request("GET", "/")
    found, more = await api.newest_events(request, EventFilter(), most)
    return [one.number for one in found], more


async def test_empty_pages_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happened long ago is found although the first pages of the log have nothing."""
    got = reading(monkeypatch, (), (), (7,), (3,))
    assert await newest(15) == ([7, 3], False)
    assert got == ["", "page 1", "page 2", "page 3"]


async def test_it_stops_with_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """With enough events no further page is asked for, and the page knows that there are more."""
    got = reading(monkeypatch, (9, 8), (7, 6), (5,))
    assert await newest(3) == ([9, 8, 7], True)
    assert len(got) == 2


async def test_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of which many pages have nothing costs a page of the console few calls."""
    got = reading(monkeypatch, *((),) * 50)
    assert await newest(3) == ([], True)
    assert len(got) == 6
