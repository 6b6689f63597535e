"""A cluster's page for the customer: its keys, and to revoke, restore and check them.

The customer types the cluster's name to revoke it, because its data cannot be read from then on.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from aiohttp import web

from keyfold import ClusterStatus, KeyfoldError, Operation, State
from keyfold.errors import NotFoundError
from keyfold.models.recheck import Rechecked
from keyfold.models.results import Restored
from keyfold_console.api import client_of
from keyfold_console.pages.organizations.frame import Frame, back, cluster_of, framed, shown, told
from keyfold_console.pages.organizations.home import places
from keyfold_console.pages.organizations.providers import title_of

_PATH: Final = "/organizations/{organization}/clusters/{cluster}"

_REASON: Final = 1_024
"""Most characters of a reason."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a form on the page led to.

    Attributes:
        error: Why nothing was done; None: something was.
        typed_wrong: Whether another name than the cluster's was typed.
        restored: The outcome of Restore; None: that was not asked for.
        checked: What the KMS said; empty: it was not asked.
    """

    error: KeyfoldError | None = None
    typed_wrong: bool = False
    restored: Restored | None = None
    checked: tuple[Rechecked, ...] = ()


_NOTHING: Final = Said()


def routes() -> list[web.RouteDef]:
    """Returns the routes of this page."""
    return [
        web.get(_PATH, show),
        web.post(f"{_PATH}/revoke", revoke),
        web.post(f"{_PATH}/restore", restore),
        web.post(f"{_PATH}/check", check),
        *(web.get(f"{_PATH}/{form}", back) for form in ("revoke", "restore", "check")),
    ]


async def show(request: web.Request) -> web.Response:
    """Shows a cluster, and how far its last revocation has come."""
    frame = await framed(request, "keys")
    return await _shown(request, frame, await _cluster(request, frame))


async def revoke(request: web.Request) -> web.Response:
    """Revokes the cluster's keys, if its name was typed."""
    frame = await framed(request, "keys")
    cluster, form = await _cluster(request, frame), await request.post()
    if str(form.get("typed", "")).strip() != cluster.cluster:
        return await _shown(request, frame, cluster, Said(typed_wrong=True), status=422)
    reason = str(form.get("reason", "")).strip()[:_REASON]
    try:
        revoked = await client_of(request).revoke(
            cluster.cluster, reason=reason, request_id=_request_id(form.get("request_id"))
        )
    except KeyfoldError as error:
        return await _shown(request, frame, cluster, Said(error=told(error)), status=422)
    where = f"{_path(frame, cluster)}?done=revoked"
    raise web.HTTPSeeOther(f"{where}&confirms={quote(revoked.operation, safe='')}")


async def restore(request: web.Request) -> web.Response:
    """Restores the cluster's keys. One that does not work stays revoked, and the page says why."""
    frame = await framed(request, "keys")
    cluster, form = await _cluster(request, frame), await request.post()
    reason = str(form.get("reason", "")).strip()[:_REASON]
    try:
        restored = await client_of(request).restore(
            cluster.cluster, reason=reason, request_id=_request_id(form.get("request_id"))
        )
    except KeyfoldError as error:
        return await _shown(request, frame, cluster, Said(error=told(error)), status=422)
    if not restored.not_restored:
        raise web.HTTPSeeOther(f"{_path(frame, cluster)}?done=restored")
    return await _shown(request, frame, restored.status, Said(restored=restored), status=409)


async def check(request: web.Request) -> web.Response:
    """Has the KMS prove the cluster's keys now."""
    frame = await framed(request, "keys")
    cluster = await _cluster(request, frame)
    try:
        checked = await client_of(request).recheck(cluster.cluster)
    except KeyfoldError as error:
        return await _shown(request, frame, cluster, Said(error=told(error)), status=422)
    now = await _cluster(request, frame)
    return await _shown(request, frame, now, Said(checked=checked.results))


async def _cluster(request: web.Request, frame: Frame) -> ClusterStatus:
    return await cluster_of(request, frame, request.match_info["cluster"])


async def _confirmations(request: web.Request) -> Operation | None:
    """Returns how far a revocation has come, if the address names one that is still known."""
    name = request.query.get("confirms", "")
    if not name:
        return None
    try:
        operation = await client_of(request).get_operation(name)
    except NotFoundError:
        return None
    same = operation.confirmations is not None and (
        operation.confirmations.cluster == request.match_info["cluster"]
    )
    return operation if same else None


async def _shown(
    request: web.Request,
    frame: Frame,
    cluster: ClusterStatus,
    said: Said = _NOTHING,
    status: int = 200,
) -> web.Response:
    states = {region.state for region in cluster.regions}
    return await shown(
        request,
        frame,
        "cluster.html",
        status=status,
        cluster=cluster,
        places=places([cluster]),
        said=said,
        confirms=await _confirmations(request),
        can_revoke=State.ENABLED in states,
        can_restore=State.REVOKED in states,
        title_of=title_of,
        request_id=str(uuid.uuid4()),
    )


def _path(frame: Frame, cluster: ClusterStatus) -> str:
    return f"{frame.path}/clusters/{cluster.cluster}"


def _request_id(given: object) -> str | None:
    return given if isinstance(given, str) and given else None
