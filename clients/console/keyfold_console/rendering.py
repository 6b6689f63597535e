"""Pages from templates.

Templates escape all that they show, and name nothing that a page did not give them. Text that
others wrote cannot turn the direction of what stands after it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from keyfold.version import __version__
from keyfold_console import words
from keyfold_console.api import SETTINGS, TOKEN, TRACE, caller_of

_NAVIGATION: Final = (
    ("/", "Overview"),
    ("/clusters", "Clusters"),
    ("/keys", "Keys"),
    ("/events", "Events"),
    ("/operations", "Operations"),
)


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("keyfold_console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["words"] = words
    made.globals["version"] = __version__
    made.filters |= {
        "ago": words.ago,
        "duration": words.duration,
        "stamp": words.stamp,
    }
    return made


_TEMPLATES: Final = _environment()

# Compiled before the first visitor comes: while one is compiled, the event loop stands still.
for _name in _TEMPLATES.list_templates():
    _TEMPLATES.get_template(_name)


_TURNING: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of the text after them, so that it reads as something else."""


async def page(
    request: web.Request, template: str, *, status: int = 200, **values: Any
) -> web.Response:
    """Returns a page.

    Besides the values, a template has `here` (the path), `navigation`, `visitor` (who the server
    says the visitor is; `visitor.may("Revoke", cluster, organization)` says what to offer),
    `signed_in`, `without_token`, `trace` and `words`.

    Args:
        request: The request that the page answers.
        template: The name of the template's file.
        status: The HTTP status.
        values: What the template shows. With `visitor=None` the server is not asked who visits.

    Raises:
        NoTokenError: As `caller_of`.
        KeyfoldError: As `caller_of`.
    """
    if "visitor" not in values:
        values["visitor"] = await caller_of(request)
    text = _TEMPLATES.get_template(template).render(
        here=request.path,
        navigation=_NAVIGATION,
        # What a proxy brings with each request, the console cannot end.
        signed_in=bool(request.get(TOKEN, "")) and "Authorization" not in request.headers,
        without_token=request.app[SETTINGS].without_token,
        trace=request.get(TRACE, ""),
        **values,
    )
    text = _TURNING.sub("\N{REPLACEMENT CHARACTER}", text)
    return web.Response(text=text, status=status, content_type="text/html")
