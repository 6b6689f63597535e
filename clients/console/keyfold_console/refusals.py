"""Errors as pages: what the API answered, why, what to do, and the trace id to ask about."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from aiohttp import web

from keyfold.errors import (
    AlreadyExistsError,
    ConflictError,
    CouldNotTellError,
    DeadlineError,
    ForbiddenError,
    InternalError,
    InvalidInputError,
    KeyfoldError,
    KmsError,
    LimitError,
    NotFoundError,
    RefusedError,
    StateError,
    StoreStaleError,
    StoreUnavailableError,
    UnauthenticatedError,
    UnavailableError,
    WrongRegionError,
)
from keyfold_console.api import TRACE, Handler, NoTokenError
from keyfold_console.rendering import page
from keyfold_console.visitors import by_proxy, to_sign_in

_log: Final = logging.getLogger(__name__)

PATIENCE: Final = 60.0
"""Seconds that a page may take. A call has 30, and a page makes few one after another."""

AT_ONCE: Final = 256
"""Most requests at a time. Streams have a bound of their own."""

_UNBOUNDED: Final = frozenset({"/live", "/livez", "/readyz"})

_ROOM: Final = web.AppKey("room", asyncio.Semaphore)

AGAIN_AFTER: Final = 5
"""Seconds after which a page that could not be served is asked for again."""

# The first that fits.
_KINDS: Final[tuple[tuple[type[KeyfoldError], int, str, str], ...]] = (
    (
        UnauthenticatedError,
        401,
        "The server does not know you",
        "Get a new token from your identity provider, and open the page again.",
    ),
    (
        ForbiddenError,
        403,
        "You may not do this",
        "Ask whoever keeps Keyfold's policy file for the right that the message names.",
    ),
    (
        NotFoundError,
        404,
        "There is nothing of this name",
        "Check the name. What you may not see looks the same as what does not exist.",
    ),
    (InvalidInputError, 400, "The request has a fault", "Correct what the message names."),
    (
        LimitError,
        429,
        "Too many requests",
        "Wait a moment, then open the page again.",
    ),
    (
        CouldNotTellError,
        503,
        "The customer's KMS cannot be asked now",
        "Nothing was decided. Try again once the KMS can be reached.",
    ),
    (
        RefusedError,
        409,
        "The customer's KMS refuses",
        "Ask the customer whether this was meant: only they can change it, at their KMS.",
    ),
    (KmsError, 409, "The customer's KMS does not do this", "Look at what the KMS said."),
    (AlreadyExistsError, 409, "There is one of this name", "Look at it, or take another name."),
    (ConflictError, 409, "Something else was changed meanwhile", "Open the page again, and look."),
    (
        WrongRegionError,
        409,
        "Another server does this",
        "Nothing was changed. Use the console or the command line at the address that serves it.",
    ),
    (StateError, 409, "This cannot be done now", "Look at the state that the message names."),
    (
        DeadlineError,
        504,
        "No answer in time",
        "Open the page again. A change may have been made: look before you repeat it.",
    ),
    (
        StoreUnavailableError,
        503,
        "Keyfold cannot read its store",
        "Servers use keys in memory for a while yet, so do not restart them: bring the store back.",
    ),
    (
        StoreStaleError,
        503,
        "Keyfold cannot read its store",
        "Servers use no keys until it is back, and then go on by themselves: bring the store back.",
    ),
    (
        UnavailableError,
        503,
        "Keyfold cannot be reached",
        "The console works, but no server answers it. Clients that hold keys in memory go on.",
    ),
    (InternalError, 500, "Keyfold failed", "Give the trace id to whoever runs Keyfold."),
    (KeyfoldError, 502, "Keyfold answered with an error", "Look at the reason."),
)


def prepare(app: web.Application) -> None:
    """Gives an application room for the requests that it serves at a time."""
    app[_ROOM] = asyncio.Semaphore(AT_ONCE)


@web.middleware
async def explained(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns what goes wrong into pages, and logs each request."""
    began = time.monotonic()
    response: web.StreamResponse
    try:
        response = await _answered(request, handler)
    except web.HTTPException as answer:
        if answer.status < 400:  # noqa: PLR2004
            _logged(request, answer.status, began)
            raise
        response = await _plain(request, answer)
    _logged(request, response.status, began)
    return response


@web.middleware
async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Bounds the requests that are served at once, each of which has arrived as a whole."""
    room = request.app[_ROOM]
    if request.path in _UNBOUNDED:
        return await handler(request)
    if room.locked():
        headers = {"Retry-After": "1"}
        return web.Response(status=503, text="too many requests at once\n", headers=headers)
    async with room:
        return await handler(request)


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        async with asyncio.timeout(PATIENCE) as limit:
            if request.path == "/live":
                limit.reschedule(None)
            return await handler(request)
    except NoTokenError:
        if not by_proxy(request):
            raise await to_sign_in(request) from None
        return await said(request, 401, "The proxy has brought no token", "", "NO_TOKEN", "")
    except UnauthenticatedError as error:
        if by_proxy(request):
            return await _refused(request, error)
        raise await to_sign_in(request) from None
    except KeyfoldError as error:
        return await _refused(request, error)
    except TimeoutError:
        return await said(
            request, 504, "No answer in time", "Open the page again.", "DEADLINE_EXCEEDED", ""
        )
    except web.HTTPException:
        raise
    except Exception:  # noqa: BLE001  the page says nothing of it, and the log has its frames
        _log.exception("a page failed", extra={"path": request.path, "trace": request[TRACE]})
        return await said(
            request,
            500,
            "The console failed",
            "Give the trace id to whoever runs the console: its log says more.",
            "INTERNAL",
            "",
        )


def kind_of(error: KeyfoldError) -> tuple[int, str, str]:
    """Returns the HTTP status of an error, what is wrong in a few words, and what to do."""
    return next(found[1:] for found in _KINDS if isinstance(error, found[0]))


async def _refused(request: web.Request, error: KeyfoldError) -> web.Response:
    status, title, advice = kind_of(error)
    return await said(request, status, title, advice, error.reason, str(error))


async def said(
    request: web.Request, status: int, title: str, advice: str, reason: str, message: str
) -> web.Response:
    """Returns a page that says what is wrong.

    Args:
        request: The request.
        status: The HTTP status.
        title: What is wrong, in a few words.
        advice: What a person does about it.
        reason: The stable word of the API; empty: none.
        message: What the API said; empty: nothing.
    """
    again = AGAIN_AFTER if status == 503 and request.method == "GET" else 0  # noqa: PLR2004
    answer = await page(
        request,
        "refusal.html",
        status=status,
        visitor=None,
        title=title,
        advice=advice,
        reason=reason,
        message=message,
        again=again,
    )
    if status == 503:  # noqa: PLR2004
        answer.headers["Retry-After"] = str(AGAIN_AFTER)
    return answer


async def _plain(request: web.Request, answer: web.HTTPException) -> web.Response:
    titles = {
        403: "This was not asked from a page of the console",
        404: "There is no such page",
        405: "A page is not asked for like this",
        408: "The form took too long to arrive",
        413: "The form is too large",
    }
    title = titles.get(answer.status, answer.reason)
    text = answer.text if answer.status in (400, 403) and answer.text else ""
    return await said(request, answer.status, title, text, "", "")


def _logged(request: web.Request, status: int, began: float) -> None:
    level = logging.DEBUG if request.path in ("/livez", "/readyz") else logging.INFO
    _log.log(
        level,
        "request",
        extra={
            "method": request.method,
            "path": request.path,
            "status": status,
            "ms": round((time.monotonic() - began) * 1000, 1),
            "trace": request.get(TRACE, ""),
        },
    )
