"""The command `what-if`: what stops if a customer takes a root key, or a right to it, away?"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from keyfold.calls import pages
from keyfold.cli.commands.key_usage import (
    LIMIT,
    Holder,
    MostUses,
    OnlyPrincipal,
    Uri,
    Version,
    selected,
    usage_of,
)
from keyfold.cli.errors import ExitCode
from keyfold.cli.output.what_if import show_what_if
from keyfold.cli.session import Session
from keyfold.models.key_usage import KeyUsage
from keyfold.models.what_if import WhatIf


class Action(StrEnum):
    """What a customer may do at the KMS."""

    DISABLE = "disable"
    DELETE = "delete"
    REMOVE_WRAP = "remove-wrap"
    REMOVE_UNWRAP = "remove-unwrap"
    REMOVE_DESCRIBE = "remove-describe"
    REMOVE_PRINCIPAL = "remove-principal"


_WHAT: Final = {
    Action.DISABLE: WhatIf.DISABLE,
    Action.DELETE: WhatIf.DELETE,
    Action.REMOVE_WRAP: WhatIf.REMOVE_WRAP_PERMISSION,
    Action.REMOVE_UNWRAP: WhatIf.REMOVE_UNWRAP_PERMISSION,
    Action.REMOVE_DESCRIBE: WhatIf.REMOVE_DESCRIBE_PERMISSION,
    Action.REMOVE_PRINCIPAL: WhatIf.REMOVE_PRINCIPAL,
}


def what_if(
    session: Session,
    action: Annotated[Action, typer.Argument(metavar="ACTION", help=f"{', '.join(Action)}.")],
    uri: Uri = "",
    *,
    version: Version = "",
    principal: OnlyPrincipal = "",
    holder: Holder = "",
    limit: MostUses = LIMIT,
) -> None:
    """Show what stops if somebody does this to a root key at its KMS: read it before you do.

    It asks no KMS, and supposes that the key works today. If anything stops, the exit code is 11.
    """
    what = _WHAT[action]
    selector = selected(uri, version, principal, holder)
    # All of them, whatever the limit: what is said of them first is said of all.
    whole, _ = usage_of(session, selector, 0, what)
    usage = KeyUsage.from_message(whole)
    if not session.printed(whole):
        show_what_if(usage, what, limit)
    pages.check_usable(whole.not_authentic, whole.banned)
    stops = any(use.impact is not None and use.impact.stops for use in usage.uses)
    if stops or (usage.hidden and not usage.safe_to_disable):
        raise typer.Exit(ExitCode.STOPS)
