"""Another key in place of a linked one: name it, attach its policy, see what moves, and move it.

What uses the link is moved by an operation of the server, region by region, while everything goes
on working: each region uses its old key until it has the new one.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web

from keyfold import (
    AccessPolicy,
    KeyfoldError,
    KeyLink,
    OperationAction,
    OperationCensus,
    OperationScope,
)
from keyfold_console.api import client_of
from keyfold_console.pages.organizations.frame import Frame, framed, shown, told
from keyfold_console.pages.organizations.wanted import Wanted

_PATH: Final = "/organizations/{organization}/links/{link}/replace"


@dataclass(frozen=True, slots=True)
class Change:
    """How far the change of a link's key has come.

    Attributes:
        wanted: The new key.
        policy: What is to be attached to it; None: nobody has asked yet.
        proven: Whether the new key was proven.
        census: What the operation has before it; None: nothing uses the link.
        error: Why the last step was refused; None: it was not.
        name: The name of the operation, which makes it safe to send the last form twice.
    """

    wanted: Wanted
    policy: AccessPolicy | None = None
    proven: bool = False
    census: OperationCensus | None = None
    error: KeyfoldError | None = None
    name: str = ""


def routes() -> list[web.RouteDef]:
    """Returns the routes of this page."""
    return [web.get(_PATH, begin), web.post(_PATH, go_on)]


async def begin(request: web.Request) -> web.Response:
    """Shows the form that names the new key."""
    frame = await framed(request, "keys")
    link = await _link(request, frame)
    given = {name: value for name, value in request.query.items() if name != "type"}
    return await _shown(request, frame, link, Change(_wanted(link, given)))


async def go_on(request: web.Request) -> web.Response:
    """Shows the new key's policy, tries it and counts what moves, or begins to move."""
    frame, form = await framed(request, "keys"), await request.post()
    link = await _link(request, frame)
    wanted = _wanted(link, {n: v for n, v in form.items() if isinstance(v, str)}).checked()
    change = Change(wanted, name=str(form.get("name", "")) or f"console-{uuid.uuid4()}")
    if wanted.problems:
        return await _shown(request, frame, link, change, status=422)
    step, client = form.get("step"), client_of(request)
    try:
        if step == "start":
            await _start(request, frame, link, change)
        policy = await client.get_access_policy(
            wanted.spec, region=link.region, organization=frame.name
        )
        change = replace(change, policy=policy)
        if step == "try":
            change = await _tried(request, frame, link, change)
    except KeyfoldError as error:
        change = replace(change, wanted=wanted.refused(error), error=told(error))
        return await _shown(request, frame, link, change, status=422)
    return await _shown(request, frame, link, change)


async def _tried(request: web.Request, frame: Frame, link: KeyLink, change: Change) -> Change:
    """Proves the new key, and counts what is to be moved."""
    client = client_of(request)
    if not link.users_count:
        await client.update_key_link(
            _with(link, change), fields=["key_spec"], etag=link.etag, validate_only=True
        )
        return replace(change, proven=True)
    action, scope = _move(frame, link, change)
    planned = await client.start_operation(change.name, action, scope, dry_run=True)
    return replace(change, proven=True, census=planned.census)


async def _start(request: web.Request, frame: Frame, link: KeyLink, change: Change) -> None:
    client, page = client_of(request), f"{frame.path}/links/{link.key_link}"
    if not link.users_count:
        await client.update_key_link(_with(link, change), fields=["key_spec"], etag=link.etag)
        raise web.HTTPSeeOther(f"{page}?done=replaced")
    action, scope = _move(frame, link, change)
    await client.start_operation(change.name, action, scope, reason="replaced in the console")
    raise web.HTTPSeeOther(f"{page}?done=moving")


def _move(frame: Frame, link: KeyLink, change: Change) -> tuple[OperationAction, OperationScope]:
    action = OperationAction.move_link(change.wanted.spec)
    return action, OperationScope.key_link(frame.name, link.key_link)


def _with(link: KeyLink, change: Change) -> KeyLink:
    """Returns a link with the new key alone, so that nothing else of it changes."""
    return KeyLink(link.organization, link.key_link, change.wanted.spec)


def _wanted(link: KeyLink, given: dict[str, str]) -> Wanted:
    """Returns the new key as a form names it, for the place of the link."""
    type_ = "" if link.key_spec is None else link.key_spec.type
    wanted = Wanted.of({**given, "type": type_, "region": link.region, "geo": link.geo})
    assert wanted is not None  # noqa: S101  every link has a key of a provider
    return wanted


async def _link(request: web.Request, frame: Frame) -> KeyLink:
    return await client_of(request).get_key_link(frame.name, request.match_info["link"])


async def _shown(
    request: web.Request, frame: Frame, link: KeyLink, change: Change, status: int = 200
) -> web.Response:
    return await shown(
        request,
        frame,
        "replace.html",
        status=status,
        link=link,
        change=change,
        wanted=change.wanted,
        nameable=frame.nameable(change.wanted.form.type),
    )
