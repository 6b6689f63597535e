"""Who visits: the token that a request brings, signing in with one, and signing out.

Invariant: a token stands in the visitor's cookie and in the calls made for that visitor, and
nowhere else: in no page, no address, no log line.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from keyfold.errors import UnauthenticatedError
from keyfold_console.api import CLIENT, SETTINGS, TOKEN, Handler
from keyfold_console.rendering import page

_MOST: Final = 4_000
"""Most bytes of a token in a cookie: browsers drop a cookie of more than 4,096."""


class _NoToken(Exception):  # noqa: N818  it is an answer to the form
    """What was given is not a token that can be kept."""


def cookie_name(request: web.Request) -> str:
    """Returns the cookie's name; with https one that no other host can set."""
    return "__Host-keyfold" if request.app[SETTINGS].secure else "keyfold"


def by_proxy(request: web.Request) -> bool:
    """Returns whether a proxy has brought the token, so that the form cannot give another one."""
    return "Authorization" in request.headers


@web.middleware
async def identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Takes the visitor's token from the proxy's header, or from the cookie."""
    if by_proxy(request):
        scheme, _, token = request.headers["Authorization"].partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
    else:
        token = request.cookies.get(cookie_name(request), "")
    request[TOKEN] = token if _is_sendable(token) else ""
    return await handler(request)


def routes() -> list[web.RouteDef]:
    """Returns the routes of signing in and out."""
    return [
        web.get("/sign-in", _form),
        web.post("/sign-in", _sign_in),
        web.post("/sign-out", _sign_out),
    ]


async def to_sign_in(request: web.Request) -> web.HTTPSeeOther:
    """Returns the way to the form and back, and forgets a token that is no longer accepted."""
    where = request.rel_url.path_qs if request.method == "GET" else await _page_of(request)
    query = {"next": where} | ({"again": "1"} if request[TOKEN] else {})
    away = web.HTTPSeeOther(request.rel_url.with_path("/sign-in").with_query(query))
    _forget(request, away)
    return away


async def _page_of(request: web.Request) -> str:
    """Returns the page from which a form was sent: it has the form's path, or one above it."""
    where = request.rel_url.with_query(None)
    while where.path != "/":
        asked = request.clone(method="GET", rel_url=where)
        if (await request.app.router.resolve(asked)).http_exception is None:
            break
        where = where.parent
    return where.path


def own_path(given: str) -> str:
    """Returns a path of this console, or `/` in place of what leads anywhere else."""
    parts = urlsplit(given) if given.startswith("/") and given.isprintable() else None
    if parts is None or parts.netloc or given.startswith(("//", "/\\")) or "\\" in given:
        return "/"
    return given


async def _form(request: web.Request) -> web.Response:
    where = own_path(request.query.get("next", "/"))
    again = "again" in request.query
    return await page(request, "sign_in.html", visitor=None, next=where, again=again, fault="")


async def _sign_in(request: web.Request) -> web.Response:
    fields = await request.post()
    token, where = str(fields.get("token", "")).strip(), own_path(str(fields.get("next", "/")))
    token = token.removeprefix("Bearer ").strip()
    try:
        lasts = _lasts(token)
        await request.app[CLIENT].with_token(lambda: token).get_caller()
    except (_NoToken, UnauthenticatedError) as error:
        said = error.message if isinstance(error, UnauthenticatedError) else str(error)
        return await page(
            request, "sign_in.html", status=400, visitor=None, next=where, again=False, fault=said
        )
    there = web.HTTPSeeOther(where)
    there.set_cookie(
        cookie_name(request),
        token,
        max_age=lasts,
        httponly=True,
        secure=request.app[SETTINGS].secure,
        samesite="Strict",
        path="/",
    )
    raise there


async def _sign_out(request: web.Request) -> web.Response:
    there = web.HTTPSeeOther("/sign-in")
    _forget(request, there)
    raise there


def _forget(request: web.Request, response: web.StreamResponse) -> None:
    secure = request.app[SETTINGS].secure
    response.del_cookie(
        cookie_name(request), path="/", secure=secure, httponly=True, samesite="Strict"
    )


def _lasts(token: str) -> int:
    """Returns the seconds until a token's own end.

    Raises:
        _NoToken: It is not a token, has ended, or does not fit into a cookie.
    """
    if not _is_sendable(token):
        raise _NoToken("this is not a token: it must be one line of ASCII without spaces")
    if len(token) > _MOST:
        raise _NoToken(
            f"the token has {len(token):,} bytes, and browsers keep at most {_MOST:,}: ask your "
            "identity provider for one with fewer claims, or put a proxy in front of the console "
            "that brings the token"
        )
    try:
        _, claims, _ = token.split(".")
        padded = claims + "=" * (-len(claims) % 4)
        ends = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))["exp"]
        left = int(ends) - int(time.time())
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise _NoToken(
            "this is not a token of an identity provider: it must be a signed JWT that says when "
            "it ends (exp)"
        ) from None
    if left <= 0:
        raise _NoToken("the token has expired: get a new one from your identity provider")
    return left


def _is_sendable(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and " " not in token
