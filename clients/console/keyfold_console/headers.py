"""Headers that hold the browser to this console, and from where a form may come.

Pages run no script and take no style but the console's own files, so text of a customer's that
reached a page as markup could do nothing. A request that may change something comes from a page of
this console, or it is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from keyfold_console.api import SETTINGS, Handler

_SAFE: Final = frozenset({"GET", "HEAD"})

_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def policy(embed: tuple[str, ...]) -> str:
    """Returns the content security policy.

    Args:
        embed: Origins whose pages may show the console in a frame.
    """
    ancestors = " ".join(embed) or "'none'"
    return "; ".join(
        (
            "default-src 'none'",
            "style-src 'self'",
            "script-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            f"frame-ancestors {ancestors}",
            "base-uri 'none'",
        )
    )


def on_response(
    embed: tuple[str, ...],
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Returns what puts the headers on every response, errors and streams included."""
    fixed = {
        "Content-Security-Policy": policy(embed),
        "X-Content-Type-Options": "nosniff",
        # With no-referrer, browsers send `Origin: null` with the console's own forms.
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }

    async def put(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(fixed)
        if request.app[SETTINGS].secure:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.pop("Server", None)

    return put


@web.middleware
async def from_here(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses what another site's page sends, and pages that were pointed at this address.

    Browsers say of each request which site's page sends it, and no page can change that. Where a
    console needs no token, a page whose host name leads to the loopback address would count as its
    own (DNS rebinding), so there the host must be a loopback name.
    """
    if request.app[SETTINGS].without_token and _name(request.host) not in _LOCAL:
        raise web.HTTPForbidden(text="open the console as localhost, or as 127.0.0.1\n")
    if request.method not in _SAFE and not _same_origin(request):
        raise web.HTTPForbidden(text="the request does not come from a page of this console\n")
    return await handler(request)


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same_origin(request: web.Request) -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    # Browsers before 2023. A page can neither leave this header out of a POST nor choose it.
    _, _, origin = request.headers.get("Origin", "").partition("://")
    return bool(origin) and origin == request.host
