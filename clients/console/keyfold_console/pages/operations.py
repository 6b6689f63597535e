"""`/operations`: work on many regions: what is under way, how far it is, and starting more.

An operation is started in two steps: the console counts what it would do, and then asks.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from keyfold.calls.operations import first_operations, get_operation
from keyfold.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
)
from keyfold_console.api import client_of, one_page
from keyfold_console.pages.operation_form import ACTIONS, WrongFormError, filled, wanted
from keyfold_console.pages.operation_words import Shown, what, where
from keyfold_console.rendering import page

_PAGE: Final = 50
"""Operations on a page."""


_TOLD: Final = (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    WrongFormError,
)
"""What is said above the form, which stays as it was filled in."""


def routes() -> list[web.RouteDef]:
    """Returns this page's routes."""
    return [
        web.get("/operations", show),
        web.post("/operations", start),
        web.get("/operations/plan", _to_list),
        web.post("/operations/plan", plan),
        web.get("/operations/{operation:.+}", show_one),
        web.post("/operations/{operation:.+}", end),
    ]


async def _to_list(request: web.Request) -> web.Response:
    """Leads whoever signed in again on the way to a plan back to where it is asked for."""
    raise web.HTTPSeeOther(request.rel_url.parent)


async def show(request: web.Request) -> web.Response:
    """Lists operations, and offers to start one."""
    return await _listed(request, filled(request.query))


async def _listed(
    request: web.Request, given: dict[str, str], *, status: int = 200, fault: str = ""
) -> web.Response:
    call = first_operations(_PAGE)
    _, response = await one_page(request, call, request.query.get("page", ""))
    more = request.rel_url.with_path("/operations").with_query(page=response.next_page_token)
    return await page(
        request,
        "operations.html",
        status=status,
        operations=[Shown.of(each) for each in response.operations],
        actions=ACTIONS,
        filled=given,
        suggested=f"console-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        first="page" not in request.query,
        more=str(more) if response.next_page_token else "",
        fault=fault,
    )


async def plan(request: web.Request) -> web.Response:
    """Counts what an operation would have before it, and asks whether to start it."""
    given = filled(await request.post())
    try:
        asked = wanted(given)
        started = await client_of(request).start_operation(
            asked.name, asked.action, asked.scope, dry_run=True
        )
    except _TOLD as error:
        return await _listed(request, given, status=400, fault=str(error))
    return await page(
        request,
        "operation_plan.html",
        census=started.census,
        filled=given,
        what=what(asked.action.message),
        where=where(asked.scope.message),
    )


async def start(request: web.Request) -> web.Response:
    """Starts an operation. Sent twice, the form starts one: its name makes it safe to repeat."""
    given = filled(await request.post())
    try:
        asked = wanted(given)
        started = await client_of(request).start_operation(
            asked.name, asked.action, asked.scope, reason=asked.reason
        )
    except _TOLD as error:
        return await _listed(request, given, status=400, fault=str(error))
    raise web.HTTPSeeOther(f"/{started.operation.name}" if started.operation else "/operations")


async def show_one(request: web.Request) -> web.Response:
    """Shows an operation, how far it is, and what failed."""
    message = await client_of(request).send(get_operation(_name(request)))
    shown = Shown.of(message)
    return await page(request, "operation.html", shown=shown, operation=shown.operation)


async def end(request: web.Request) -> web.Response:
    """Cancels an operation, or deletes one that has ended."""
    fields, name, client = await request.post(), _name(request), client_of(request)
    if fields.get("do") == "delete":
        await client.delete_operation(name)
        raise web.HTTPSeeOther("/operations")
    if fields.get("do") != "cancel":
        raise web.HTTPBadRequest(text="the form does not say whether to cancel or to delete\n")
    await client.cancel_operation(name)
    raise web.HTTPSeeOther(request.path)


def _name(request: web.Request) -> str:
    """Returns the full name, or the short one of an operation of the visitor's own."""
    # A link may have the full name after this page's own path.
    name = request.match_info["operation"].removeprefix("operations/")
    return f"operations/{name}" if "/" in name else name
