"""`/live`: that something has changed, as server-sent events. The page then asks for itself again.

No event tells what has changed, so a stream tells nothing that the page would not. It is a watch
with the visitor's token, and ends when the server no longer takes that.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from typing import Any, Final

from aiohttp import web

from keyfold.aio import AsyncWatch
from keyfold.errors import KeyfoldError
from keyfold.models.watch import Heartbeat, SnapshotEnd
from keyfold_console.api import TOKEN, caller_of, client_of

_OF_A_VISITOR: Final = 12
"""Most streams of one visitor: windows that are open and seen."""

_OF_ALL: Final = 1_000
"""Most streams of this console."""

_AGE: Final = 600.0
"""Seconds after which a stream ends. The browser begins the next one by itself."""

_APART: Final = 1.0
"""Seconds that a stream waits between two messages, however often something changes."""

_STREAMS: Final = web.AppKey("streams", Counter[bytes])

_ENDING: Final = web.AppKey("ending", asyncio.Event)

_log: Final = logging.getLogger(__name__)


def routes() -> list[web.RouteDef]:
    """Returns the stream's route."""
    return [web.get("/live", follow)]


def prepare(app: web.Application) -> None:
    """Gives an application its count of streams, which end when it does."""
    app[_STREAMS] = Counter()
    app[_ENDING] = asyncio.Event()
    app.on_shutdown.append(_end)


async def _end(app: web.Application) -> None:
    app[_ENDING].set()


async def follow(request: web.Request) -> web.StreamResponse:
    """Tells each change until the browser leaves, the server ends the watch, or ten minutes."""
    streams = request.app[_STREAMS]
    # By a digest, so that no token is in memory longer than its request.
    visitor = hashlib.sha256(request[TOKEN].encode()).digest()
    if streams[visitor] >= _OF_A_VISITOR or streams.total() >= _OF_ALL:
        raise web.HTTPTooManyRequests
    streams[visitor] += 1
    try:
        return await _told(request)
    finally:
        streams[visitor] -= 1
        if not streams[visitor]:
            del streams[visitor]


class _News:
    """What the browser is to be told next: `change`, `away`, or that all is as it was."""

    def __init__(self) -> None:
        self._word = ""
        self._is_away = False
        self._wake = asyncio.Event()

    def away(self) -> None:
        """Notes that the server does not answer."""
        self._word, self._is_away = "away", True
        self._wake.set()

    def heard(self, *, changed: bool) -> None:
        """Notes a message of the server. The first one after it was away may mean any change."""
        if changed or self._is_away:
            self._word, self._is_away = "change", False
        self._wake.set()

    async def next(self) -> str:
        """Waits for news and returns the word; empty: a sign of life."""
        await self._wake.wait()
        self._wake.clear()
        word, self._word = self._word, ""
        return word


async def _told(request: web.Request) -> web.StreamResponse:
    cluster = request.query.get("cluster", "")
    events = (await caller_of(request)).may("ListEvents")
    news = _News()
    watch = client_of(request).watch(
        [cluster] if cluster else [],
        organization=request.query.get("organization", ""),
        events=events,
        on_break=lambda _: news.away(),
    )
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    # A task of its own: however slowly the browser reads, the watch is read.
    watching = asyncio.create_task(_watched(watch, news))
    ending = asyncio.create_task(request.app[_ENDING].wait())
    try:
        async with asyncio.timeout(_AGE):
            while (word := await _next(watching, ending, news)) is not None:
                if not response.prepared:
                    # The first message shows that the watch is allowed. A fault before is a page.
                    await response.prepare(request)
                    await response.write(b"retry: 5000\n\n")
                said = f"event: {word}\ndata: 1\n\n" if word else ": alive\n\n"
                await response.write(said.encode())
                await asyncio.sleep(_APART)
    except TimeoutError:
        pass
    except KeyfoldError:
        if not response.prepared:
            raise
    except ConnectionError:
        _log.debug("a browser has left")
    finally:
        ending.cancel()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return response


async def _watched(watch: AsyncWatch, news: _News) -> None:
    begun = False
    async with watch:
        async for message in watch:
            quiet = isinstance(message, (Heartbeat, SnapshotEnd))
            news.heard(changed=begun and not quiet)
            begun = begun or isinstance(message, SnapshotEnd)


async def _next(watching: asyncio.Task[None], ending: asyncio.Task[Any], news: _News) -> str | None:
    """Returns the next word; None: the console ends.

    Raises:
        KeyfoldError: The server has ended the watch.
    """
    waiting = asyncio.create_task(news.next())
    try:
        done, _ = await asyncio.wait(
            (watching, ending, waiting), return_when=asyncio.FIRST_COMPLETED
        )
        if ending in done:
            return None
        if watching in done:
            watching.result()
        return await waiting
    finally:
        waiting.cancel()
