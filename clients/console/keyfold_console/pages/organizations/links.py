"""The page of a linked key: what it is, who uses it, to test it, and to let clusters have it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from keyfold import (
    AccessPolicy,
    ClusterStatus,
    KeyfoldError,
    KeyLink,
    KeySpec,
    KeyTest,
    NotFoundError,
    Operation,
    RegionSpec,
    State,
)
from keyfold_console.api import client_of
from keyfold_console.pages.organizations.connect import STEPS
from keyfold_console.pages.organizations.frame import (
    Frame,
    back,
    cluster_of,
    clusters_of,
    framed,
    shown,
    told,
)
from keyfold_console.pages.organizations.home import Place, places
from keyfold_console.pages.organizations.providers import title_of

_PATH: Final = "/organizations/{organization}/links/{link}"


@dataclass(frozen=True, slots=True)
class Said:
    """What a form on the page led to.

    Attributes:
        error: Why nothing was done; None: something was.
        typed_wrong: Whether another name than the link's was typed.
        policy: What is to be attached; None: nobody asked.
        test: How a test came out; None: there was none.
    """

    error: KeyfoldError | None = None
    typed_wrong: bool = False
    policy: AccessPolicy | None = None
    test: KeyTest | None = None


_NOTHING: Final = Said()


def routes() -> list[web.RouteDef]:
    """Returns the routes of this page."""
    return [
        web.get(_PATH, show),
        web.post(f"{_PATH}/policy", policy),
        web.post(f"{_PATH}/test", test),
        web.post(f"{_PATH}/adopt", adopt),
        web.post(f"{_PATH}/unlink", unlink),
        *(web.get(f"{_PATH}/{form}", back) for form in ("policy", "test", "adopt", "unlink")),
    ]


async def show(request: web.Request) -> web.Response:
    """Shows the link."""
    frame = await framed(request, "keys")
    return await _shown(request, frame, await _link(request, frame))


async def policy(request: web.Request) -> web.Response:
    """Shows what is to be attached to the key."""
    frame = await framed(request, "keys")
    link = await _link(request, frame)
    try:
        attach = await client_of(request).get_access_policy(
            _key(link), region=link.region, organization=frame.name
        )
    except KeyfoldError as error:
        return await _shown(request, frame, link, Said(error=told(error)), status=422)
    return await _shown(request, frame, link, Said(policy=attach))


async def test(request: web.Request) -> web.Response:
    """Tests the key, step by step. It changes nothing, and takes nothing out of use."""
    frame = await framed(request, "keys")
    link = await _link(request, frame)
    try:
        tried = await client_of(request).test_key(
            _key(link), region=link.region, geo=link.geo, organization=frame.name
        )
    except KeyfoldError as error:
        return await _shown(request, frame, link, Said(error=told(error)), status=422)
    return await _shown(request, frame, link, Said(test=tried))


async def adopt(request: web.Request) -> web.Response:
    """Gives the link's key to a region of a cluster of the organization."""
    frame = await framed(request, "keys")
    link, form = await _link(request, frame), await request.post()
    # Of another organization's cluster the link's name would mean a link of that one.
    cluster = await cluster_of(request, frame, str(form.get("cluster", "")))
    spec = RegionSpec(str(form.get("region", "")), key_link=link.key_link)
    try:
        await client_of(request).rotate(cluster.cluster, [spec])
    except KeyfoldError as error:
        return await _shown(request, frame, link, Said(error=told(error)), status=422)
    raise web.HTTPSeeOther(f"{_path(frame, link)}?done=adopted")


async def unlink(request: web.Request) -> web.Response:
    """Removes a link that nothing uses, if its name was typed. The key itself stays as it is."""
    frame = await framed(request, "keys")
    link, form = await _link(request, frame), await request.post()
    if str(form.get("typed", "")).strip() != link.key_link:
        return await _shown(request, frame, link, Said(typed_wrong=True), status=422)
    try:
        await client_of(request).delete_key_link(
            frame.name, link.key_link, etag=str(form.get("etag", ""))
        )
    except KeyfoldError as error:
        return await _shown(request, frame, link, Said(error=told(error)), status=422)
    raise web.HTTPSeeOther(f"{frame.path}?done=unlinked")


async def _link(request: web.Request, frame: Frame) -> KeyLink:
    return await client_of(request).get_key_link(frame.name, request.match_info["link"])


def _key(link: KeyLink) -> KeySpec:
    assert link.key_spec is not None  # noqa: S101  every link that a server sends has one
    return link.key_spec


def _path(frame: Frame, link: KeyLink) -> str:
    return f"{frame.path}/links/{link.key_link}"


def _served(link: KeyLink) -> set[str]:
    """Returns the regions for which the link has a key."""
    served = {replica.region for replica in link.replicas if not replica.reason}
    return {link.region} if link.region else served


def _others(clusters: Iterable[ClusterStatus], link: KeyLink) -> list[Place]:
    """Returns the regions that could use the link, and do not."""
    served = _served(link)
    return [
        place
        for place in places(clusters)
        if place.region.region in served
        and place.region.key_link != link.key_link
        and place.region.state is State.ENABLED
    ]


async def _moving(request: web.Request, link: KeyLink) -> Operation | None:
    """Returns the operation that moves a link's users, if there is one that the visitor may see."""
    if not link.operation:
        return None
    try:
        return await client_of(request).get_operation(link.operation)
    except NotFoundError:
        return None


async def _shown(
    request: web.Request, frame: Frame, link: KeyLink, said: Said = _NOTHING, status: int = 200
) -> web.Response:
    clusters = (await clusters_of(request, frame.name)).items
    moving = await _moving(request, link)
    users = [place for place in places(clusters) if place.region.key_link == link.key_link]
    return await shown(
        request,
        frame,
        "link.html",
        status=status,
        link=link,
        users=users,
        others=_others(clusters, link),
        said=said,
        moving=moving,
        steps=STEPS,
        title_of=title_of,
    )
