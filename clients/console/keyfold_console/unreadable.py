"""What cannot be read: bytes that are no request of HTTP, and forms that are none.

Invariant: nothing of what could not be read stands in an answer. aiohttp's own answer would quote
it, and the line with the fault may be the one with a token.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from keyfold_console.api import SETTINGS, TOKEN, Handler

_log: Final = logging.getLogger(__name__)

_OWN_FAULT: Final = 500
"""The least status that is no fault of the request. aiohttp quotes nothing then."""

PATIENCE: Final = 10.0
"""Seconds for a form to arrive."""

AT_ONCE: Final = 128
"""Most forms that arrive at a time. Until a form has arrived, it takes no place for requests."""

OF_ONE: Final = 16
"""Most forms of one address that arrive at a time. Behind a proxy all visitors have its address, so
there they are those of one token."""

_ARRIVING: Final = web.AppKey("arriving", Counter[str])

_FORM: Final = "application/x-www-form-urlencoded"


class _Connection(web.RequestHandler):
    """A browser's connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what never reached the application, without a word of it."""
        if status >= _OWN_FAULT or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        _log.debug("a request could not be read", extra={"status": status})
        answer = web.Response(status=status, text="this is not a request that can be read\n")
        answer.headers["Server"] = "keyfold-console"
        answer.headers["Cache-Control"] = "no-store"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.force_close()
        return answer


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


def answer_plainly(server: web.Server) -> None:
    """Has a server answer what it cannot read without quoting it."""
    # aiohttp makes the server of an application itself, and offers no other way to choose one.
    server.__class__ = _Server


def prepare(app: web.Application) -> None:
    """Gives an application its count of the forms that arrive."""
    app[_ARRIVING] = Counter()


@web.middleware
async def read(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Reads the form before its page does, so that one that is none is a fault of the request."""
    if not request.can_read_body:
        return await handler(request)
    if request.content_type != _FORM:
        raise web.HTTPBadRequest(text="what was sent is not a form of this console\n")
    arriving, who = request.app[_ARRIVING], _who(request)
    if arriving.total() >= AT_ONCE or arriving[who] >= OF_ONE:
        headers = {"Retry-After": "1"}
        return web.Response(status=503, text="too many forms at once\n", headers=headers)
    try:
        with _counted(arriving, who):
            async with asyncio.timeout(PATIENCE):
                await request.post()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except (ValueError, LookupError, web.RequestPayloadError, ConnectionError):
        raise web.HTTPBadRequest(text="the form cannot be read\n") from None
    return await handler(request)


def _who(request: web.Request) -> str:
    if request.app[SETTINGS].behind_proxy:
        return hashlib.sha256(request[TOKEN].encode()).hexdigest()
    return request.remote or ""


@contextmanager
def _counted(arriving: Counter[str], who: str) -> Iterator[None]:
    arriving[who] += 1
    try:
        yield
    finally:
        arriving[who] -= 1
        if not arriving[who]:
            del arriving[who]
