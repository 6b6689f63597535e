"""The customer's pages: connecting a key without a ticket, and seeing what becomes of it.

They are written for a security administrator of a customer who has never heard of Keyfold, whose
token names one organization. The same pages serve an operator who may see many.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from keyfold_console.pages.organizations import (
    clusters,
    connect,
    events,
    home,
    links,
    replace,
    usage,
    what_if,
)

_MODULES: Final = (home, connect, links, replace, clusters, events, usage, what_if)


def routes() -> list[web.RouteDef]:
    """Returns the routes of all pages of a customer."""
    return [route for module in _MODULES for route in module.routes()]
