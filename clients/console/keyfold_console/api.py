"""The connection to the servers, and a client of it for each visitor.

Invariant: a call goes out with the token of the visitor whose request is served, or without one in
development. No call is the console's own.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from opentelemetry import context, propagate, trace

import keyfold
from keyfold import AsyncClient
from keyfold.calls.call import Call, Response, Result
from keyfold.calls.events import EventFilter, first_events
from keyfold.models.caller import CallerIdentity
from keyfold.models.events import Event
from keyfold_console.settings import Settings, SettingsError

CLIENT: Final = web.AppKey("client", AsyncClient)
SETTINGS: Final = web.AppKey("settings", Settings)
TOKEN: Final = web.RequestKey("token", str)
"""The visitor's token; empty: none."""
TRACE: Final = web.RequestKey("trace", str)
"""The id of the request's trace, which the events of its calls have, too."""

CALLER: Final = web.RequestKey("caller", CallerIdentity)
"""Who the server says that the visitor is."""

TIMEOUT: Final = 30.0
"""Seconds for one call. A trial of keys waits for the customer's KMS."""

_FURTHER: Final = 5
"""Pages of events that are asked for beyond the first, while there are too few."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class NoTokenError(Exception):
    """The visitor has brought no token, and the server wants one, or would take the console's."""


def connect(settings: Settings) -> AsyncClient:
    """Returns the connection, which opens with its first call.

    Raises:
        SettingsError: The target or the TLS files cannot be used.
    """
    try:
        client = AsyncClient(
            settings.target, tls=settings.tls, timeout=TIMEOUT, control_timeout=TIMEOUT
        )
        # Refuses at the start what it would refuse for each visitor: a token over plain text.
        client.with_token(lambda: "checked")
    except (keyfold.KeyfoldError, ValueError, OSError) as error:
        raise SettingsError(f"--target {settings.target}: {error}") from None
    return client


async def connected(app: web.Application) -> AsyncIterator[None]:
    """Holds the connection for as long as the application runs."""
    client = connect(app[SETTINGS])
    app[CLIENT] = client
    yield
    await client.close()


def client_of(request: web.Request) -> AsyncClient:
    """Returns a client whose calls are the visitor's.

    Raises:
        NoTokenError: There is no token, and calls without one are not for this console to make.
    """
    client, token = request.app[CLIENT], request[TOKEN]
    if token:
        return client.with_token(lambda: token)
    if not request.app[SETTINGS].without_token:
        raise NoTokenError
    return client


async def caller_of(request: web.Request) -> CallerIdentity:
    """Returns who the server says that the visitor is, and what their grants allow.

    It is for what to offer; the server decides.

    Raises:
        NoTokenError: As `client_of`.
        KeyfoldError: The server does not know the visitor, or does not answer.
    """
    if CALLER not in request:
        request[CALLER] = await client_of(request).get_caller()
    return request[CALLER]


async def one_page(
    request: web.Request, call: Call[Response, Result], token: str
) -> tuple[Result, Response]:
    """Asks for one page of a list.

    Args:
        request: The request of the visitor.
        call: The call for the first page, whose request this changes.
        token: The `next_page_token` of the page before, which the visitor brings; empty: none.

    Returns:
        What the page lists, and the response, whose `next_page_token` leads on.
    """
    wanted: Any = call.request
    wanted.page_token = token
    response = await client_of(request).send(call)
    return call.result(response), response


async def newest_events(
    request: web.Request, wanted: EventFilter, most: int
) -> tuple[tuple[Event, ...], bool]:
    """Returns the newest events that match, and whether there may be older ones.

    The server's work for one page is bounded, so a page may be empty and the next one not: a few
    pages are asked for.
    """
    call = first_events(wanted, newest_first=True, page_size=most)
    found, response = await one_page(request, call, "")
    for _ in range(_FURTHER):
        if len(found) >= most or not response.next_page_token:
            break
        more, response = await one_page(request, call, response.next_page_token)
        found += more
    return found[:most], bool(response.next_page_token) or len(found) > most


@web.middleware
async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the calls of a request one trace: the one with which it came, or a new one."""
    found = trace.get_current_span(propagate.extract(request.headers)).get_span_context()
    if not found.is_valid:
        made = secrets.token_bytes(24)
        number, span = int.from_bytes(made[:16]), int.from_bytes(made[16:])
        found = trace.SpanContext(number, span, is_remote=False)
    request[TRACE] = trace.format_trace_id(found.trace_id)
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(found)))
    try:
        return await handler(request)
    finally:
        context.detach(token)
