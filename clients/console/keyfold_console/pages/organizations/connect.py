"""Connecting a key: name it, see the policy to attach, watch the test turn green, link it.

Asking for the policy and testing change nothing but the log, so they show their answer at once.
Linking redirects to the link.
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
    KeyTest,
)
from keyfold_console.api import SETTINGS, client_of
from keyfold_console.pages.organizations.frame import Frame, everything, framed, shown, told
from keyfold_console.pages.organizations.providers import FORMS, ProviderForm, form_of
from keyfold_console.pages.organizations.wanted import Wanted

_PATH: Final = "/organizations/{organization}/connect"

STEPS: Final = (
    ("AUTHENTICATE", "The service signs in to your KMS"),
    ("DESCRIBE", "Your KMS shows the key"),
    ("WRAP", "Your key encrypts"),
    ("UNWRAP", "Your key decrypts what it encrypted"),
)
"""The steps of a test for an organization, in their order, in the customer's words."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a customer has come.

    Attributes:
        wanted: The key.
        policy: What is to be attached; None: nobody has asked yet.
        test: How the last test came out; None: there was none.
        error: Why the last step was refused; None: it was not.
        request_id: Makes it safe to send the form of the last step twice.
    """

    wanted: Wanted
    policy: AccessPolicy | None = None
    test: KeyTest | None = None
    error: KeyfoldError | None = None
    request_id: str = ""

    @property
    def step(self) -> int:
        """The number of the step that comes next, from 1."""
        if self.policy is None:
            return 1
        if self.test is None:
            return 2
        return 4 if self.test.accessible else 3


def routes() -> list[web.RouteDef]:
    """Returns the routes of this page."""
    return [web.get(_PATH, begin), web.post(_PATH, go_on)]


async def begin(request: web.Request) -> web.Response:
    """Shows the providers or, once one is chosen, the form that names the key."""
    frame = await framed(request, "connect")
    wanted = Wanted.of(request.query)
    if wanted is None:
        return await shown(request, frame, "connect_provider.html", forms=_offered(request, frame))
    return await _shown(request, frame, Progress(wanted))


async def go_on(request: web.Request) -> web.Response:
    """Shows the policy, or the outcome of a test; or links the key."""
    form = await request.post()
    frame = await framed(request, "connect")
    wanted = Wanted.of(form)
    if wanted is None:
        return await shown(request, frame, "connect_provider.html", forms=_offered(request, frame))
    wanted = wanted.checked()
    if wanted.problems:
        return await _shown(request, frame, Progress(wanted), status=422)
    step = form.get("step")
    if step == "link":
        return await _link(request, frame, wanted, str(form.get("request_id", "")))
    if step == "test" and form.get("part"):
        # The script asks for the outcome alone, again and again, and keeps the page around it.
        progress = await _asked(request, frame, wanted, test=True, policy=False)
        return await shown(request, frame, "proof.html", progress=progress, steps=STEPS)
    return await _shown(request, frame, await _asked(request, frame, wanted, test=step == "test"))


def _offered(request: web.Request, frame: Frame) -> list[ProviderForm]:
    """Returns the forms of the providers whose keys the visitor may link.

    That of the local file is for development alone, where every key may be named.
    """
    types = {key.type for key in frame.nameable()}
    if "*" in types:
        tried_out = request.app[SETTINGS].without_token
        return [form for form in FORMS.values() if tried_out or form.type != "LOCAL"]
    return [form for form in map(form_of, sorted(types)) if form is not None]


async def _asked(
    request: web.Request, frame: Frame, wanted: Wanted, *, test: bool, policy: bool = True
) -> Progress:
    """Asks for the policy, and tests the key."""
    client = client_of(request)
    progress = Progress(wanted, request_id=str(uuid.uuid4()))
    try:
        if policy:
            attach = await client.get_access_policy(
                wanted.spec, region=wanted.region, organization=frame.name
            )
            progress = replace(progress, policy=attach)
        if test:
            tried = await client.test_key(
                wanted.spec, region=wanted.region, geo=wanted.geo, organization=frame.name
            )
            progress = replace(progress, test=tried)
    except KeyfoldError as error:
        return replace(progress, wanted=wanted.refused(error), error=told(error))
    return progress


async def _link(
    request: web.Request, frame: Frame, wanted: Wanted, request_id: str
) -> web.Response:
    link = KeyLink(
        frame.name,
        wanted.name,
        wanted.spec,
        region=wanted.region,
        geo=wanted.geo,
        description=wanted.description,
    )
    try:
        await client_of(request).create_key_link(link, request_id=request_id or None)
    except KeyfoldError as error:
        refused = told(error)
        # What the test says of a key that does not work is more than the refusal does.
        progress = await _asked(request, frame, wanted.refused(error), test=True)
        return await _shown(request, frame, replace(progress, error=refused), status=422)
    raise web.HTTPSeeOther(f"{frame.path}/links/{wanted.name}?done=linked")


async def _shown(
    request: web.Request, frame: Frame, progress: Progress, status: int = 200
) -> web.Response:
    return await shown(
        request,
        frame,
        "connect.html",
        status=status,
        progress=progress,
        wanted=progress.wanted,
        nameable=frame.nameable(progress.wanted.form.type),
        regions=await _regions(request, frame) if progress.step == 1 else (),
        steps=STEPS,
    )


async def _regions(request: web.Request, frame: Frame) -> tuple[str, ...]:
    """Returns the regions that the customer's clusters and links have, to offer their names."""
    links, clusters = await everything(request, frame.name)
    names = {region.region for cluster in clusters.items for region in cluster.regions}
    return tuple(sorted(names | {link.region for link in links.items if link.region}))
