"""`/clusters`: which clusters there are, and which of them need a person."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from keyfold.calls.pages import ClusterFilter, first_page
from keyfold.models.status import Health, State
from keyfold_console.api import one_page
from keyfold_console.rendering import page

_PAGE: Final = 50
"""Clusters on a page."""


def routes() -> list[web.RouteDef]:
    """Returns this page's routes."""
    return [web.get("/clusters", show)]


async def show(request: web.Request) -> web.Response:
    """Lists clusters by name, narrowed by what the query says."""
    wanted = request.query
    narrow = ClusterFilter(
        organization=wanted.get("organization", ""),
        state=State.__members__.get(wanted.get("state", ""), State.UNSPECIFIED),
        health=Health.__members__.get(wanted.get("health", ""), Health.UNSPECIFIED),
        name_prefix=wanted.get("prefix", ""),
    )
    clusters, response = await one_page(request, first_page(narrow, _PAGE), wanted.get("page", ""))
    more = request.rel_url.update_query(page=response.next_page_token)
    return await page(
        request,
        "clusters.html",
        clusters=clusters,
        narrow=narrow,
        not_authentic=list(response.not_authentic),
        banned=list(response.banned),
        states=[one for one in State if one is not State.UNSPECIFIED],
        healths=[one for one in Health if one is not Health.UNSPECIFIED],
        first="page" not in wanted,
        more=str(more) if response.next_page_token else "",
    )
