"""All routes, and what surrounds each request."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiohttp import web

from keyfold_console import api, headers, live, pages, refusals, unreadable, visitors
from keyfold_console.settings import Settings

_STATIC: Final = Path(__file__).parent / "static"

_MOST: Final = 64 * 1024
"""Most bytes of a form. The largest holds a token or a key's options."""

_MOST_LINE: Final = 16 * 1024
"""Most bytes of a request's line, and of a header."""


def build(settings: Settings) -> web.Application:
    """Returns the application, which connects to the servers when it starts.

    Raises:
        SettingsError: The target or the TLS files cannot be used.
    """
    app = web.Application(
        client_max_size=_MOST,
        handler_args={"max_line_size": _MOST_LINE, "max_field_size": _MOST_LINE},
        middlewares=[
            api.traced,
            visitors.identified,
            refusals.explained,
            headers.from_here,
            unreadable.read,
            refusals.bounded,
        ],
    )
    app[api.SETTINGS] = settings
    live.prepare(app)
    refusals.prepare(app)
    unreadable.prepare(app)
    app.cleanup_ctx.append(api.connected)
    app.on_response_prepare.append(headers.on_response(settings.embed))
    app.add_routes(
        [
            web.get("/livez", _live),
            web.get("/readyz", _ready),
            *visitors.routes(),
            *live.routes(),
            *pages.routes(),
        ]
    )
    for file in _STATIC.iterdir():
        app.router.add_get(f"/static/{file.name}", _served(file))
    return app


def _served(file: Path) -> api.Handler:
    kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    body = file.read_bytes()

    async def serve(_: web.Request) -> web.Response:
        response = web.Response(body=body, content_type=kinds[file.suffix], charset="utf-8")
        response.headers["Cache-Control"] = "max-age=300"
        return response

    return serve


async def _live(_: web.Request) -> web.Response:
    """Answers that the event loop takes its turns."""
    return web.Response(text="live\n")


async def _ready(_: web.Request) -> web.Response:
    """Answers that pages can be served. A server that is away is a page, and no reason to end."""
    return web.Response(text="ready\n")
