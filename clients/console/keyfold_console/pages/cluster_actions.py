"""What a person does to a cluster: recheck, test, rotate, revoke and restore.

Each but the first has a form that says what it means. A form that is sent twice does the thing
once: it carries the id of its request. Revoking needs the cluster's name typed.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from keyfold.errors import KeyfoldError, LimitError, UnauthenticatedError, UnavailableError
from keyfold.models.specs import KeySpec, RegionSpec
from keyfold.models.status import ClusterStatus, State
from keyfold_console.api import caller_of, client_of
from keyfold_console.rendering import page

_METHODS: Final = {
    "test": "TestKey",
    "rotate": "Rotate",
    "revoke": "Revoke",
    "restore": "Restore",
}
"""The method of each form's action, which the visitor must be allowed."""

_MAX_REASON: Final = 1_024
"""Most characters of a reason."""


class _FaultError(Exception):
    """The form is not filled in as it must be."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A form as it was sent.

    Attributes:
        regions: The regions that were chosen; empty: none.
        texts: What the visitor typed into the other fields, by their names.
    """

    regions: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    async def read(cls, request: web.Request) -> Sent:
        """Reads the form."""
        fields = await request.post()
        regions = tuple(str(one) for one in fields.getall("region", []))
        texts = {name: str(value).strip() for name, value in fields.items()}
        return cls(regions, texts)

    def text(self, name: str) -> str:
        """Returns what was typed into a field; empty: nothing."""
        return self.texts.get(name, "")


_Act = Callable[[web.Request, ClusterStatus, Sent], Awaitable[Any]]


def routes() -> list[web.RouteDef]:
    """Returns the routes of the forms."""
    found = [web.post("/clusters/{cluster}/recheck", _recheck)]
    acts = {"test": _test, "rotate": _rotate, "revoke": _revoke, "restore": _restore}
    for name, act in acts.items():
        found.append(web.get(f"/clusters/{{cluster}}/{name}", _form(name)))
        found.append(web.post(f"/clusters/{{cluster}}/{name}", _acting(name, act)))
    return found


def _form(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def show(request: web.Request) -> web.Response:
        status = await client_of(request).get_status(request.match_info["cluster"])
        chosen = tuple(request.query.getall("region", []))
        return await _shown(request, name, status, Sent(chosen))

    return show


def _acting(name: str, act: _Act) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Returns what carries a form out. What is refused is said above the form, as it was sent."""

    async def send(request: web.Request) -> web.Response:
        sent = await Sent.read(request)
        status = await client_of(request).get_status(request.match_info["cluster"])
        try:
            result = await act(request, status, sent)
        except _FaultError as fault:
            return await _shown(request, name, status, sent, fault=str(fault))
        except (UnauthenticatedError, UnavailableError, LimitError):
            raise  # pages of their own, which lead back
        except KeyfoldError as error:
            return await _shown(request, name, status, sent, refused=error)
        return await _shown(request, name, status, sent, result=result)

    return send


async def _shown(
    request: web.Request,
    name: str,
    status: ClusterStatus,
    sent: Sent,
    *,
    fault: str = "",
    refused: KeyfoldError | None = None,
    result: Any = None,
) -> web.Response:
    visitor = await caller_of(request)
    return await page(
        request,
        f"cluster_{name}.html",
        status=409 if refused else 400 if fault else 200,
        cluster=status,
        enabled=[one for one in status.regions if one.state is State.ENABLED],
        revoked=[one for one in status.regions if one.state is State.REVOKED],
        sent=sent,
        allowed=visitor.may(_METHODS[name], status.cluster, status.organization),
        request_id=f"console-{secrets.token_hex(16)}",
        fault=fault,
        refused=refused,
        result=result,
    )


def _done(request: web.Request, action: str, **query: str) -> web.HTTPSeeOther:
    return web.HTTPSeeOther(request.rel_url.parent.with_query({"done": action} | query))


async def _recheck(request: web.Request) -> web.Response:
    await client_of(request).recheck(request.match_info["cluster"])
    raise _done(request, "recheck")


async def _test(request: web.Request, status: ClusterStatus, sent: Sent) -> Any:
    """Tries the key that a region has. It changes nothing, so the answer is the page itself."""
    found = [one for one in status.regions if one.region in sent.regions]
    if not found:
        raise _FaultError("Choose the region whose key to test.")
    return await client_of(request).test_key(
        found[0].key_spec, cluster=status.cluster, region=found[0].region
    )


async def _rotate(request: web.Request, status: ClusterStatus, sent: Sent) -> Any:
    if not sent.regions:
        raise _FaultError("Choose at least one region.")
    # Without a uri: the newest version of the key that each region has.
    uri, spec = sent.text("uri"), None
    if uri:
        spec = KeySpec(sent.text("type"), uri, sent.text("auth_principal"))
    await client_of(request).rotate(
        status.cluster,
        [RegionSpec(one, spec) for one in sent.regions],
        new_generation=bool(sent.text("new_generation")),
        request_id=sent.text("request_id") or None,
    )
    raise _done(request, "rotate")


async def _revoke(request: web.Request, status: ClusterStatus, sent: Sent) -> Any:
    if sent.text("typed") != status.cluster:
        raise _FaultError("This is not the cluster's name, so nothing was done.")
    if not sent.regions:
        raise _FaultError("Choose at least one region.")
    done = await client_of(request).revoke(
        status.cluster,
        regions=_all_or(sent.regions, status),
        reason=sent.text("reason")[:_MAX_REASON],
        request_id=sent.text("request_id") or None,
    )
    more = {"operation": done.operation} if done.pending and done.operation else {}
    raise _done(request, "revoke", **more)


async def _restore(request: web.Request, status: ClusterStatus, sent: Sent) -> Any:
    if not sent.regions:
        raise _FaultError("Choose at least one region.")
    done = await client_of(request).restore(
        status.cluster,
        regions=sent.regions,
        reason=sent.text("reason")[:_MAX_REASON],
        request_id=sent.text("request_id") or None,
    )
    if not done.not_restored:
        raise _done(request, "restore")
    return done


def _all_or(regions: tuple[str, ...], status: ClusterStatus) -> tuple[str, ...]:
    """Returns no region in place of all: then a region that came meanwhile is revoked as well."""
    return () if set(regions) == {one.region for one in status.regions} else regions
