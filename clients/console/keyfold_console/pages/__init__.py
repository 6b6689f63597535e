"""The pages, a module for each; a module's `routes` says at which paths."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from keyfold_console.pages import (
    cluster,
    cluster_actions,
    clusters,
    events,
    keys,
    operations,
    organizations,
    overview,
)

_MODULES: Final = (
    overview,
    clusters,
    cluster,
    cluster_actions,
    keys,
    events,
    operations,
    organizations,
)


def routes() -> list[web.RouteDef]:
    """Returns the routes of all pages."""
    return [route for module in _MODULES for route in module.routes()]
