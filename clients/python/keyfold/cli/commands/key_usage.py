"""The command `key-usage`: may this root key be disabled, and who needs it?"""

from __future__ import annotations

from typing import Annotated

import typer

from keyfold.calls import pages
from keyfold.calls.call import next_page
from keyfold.calls.key_usage import KeyUsagePage, first_key_usage
from keyfold.cli.errors import InputError
from keyfold.cli.output.key_usage import show_key_usage
from keyfold.cli.session import Session
from keyfold.models.key_usage import KeySelector, KeyUsage
from keyfold.models.what_if import WhatIf
from keyfold.v1 import key_management_service_pb2 as api

LIMIT = 1_000
"""Uses that the command shows if --limit does not say how many; also those of one page."""


Uri = Annotated[
    str, typer.Argument(metavar="[KEY]", help="The root key's uri.", show_default=False)
]
Version = Annotated[str, typer.Option(help="Only this version of the key.", show_default=False)]
OnlyPrincipal = Annotated[
    str,
    typer.Option(
        "--principal",
        help="Only keys called as this principal; `ambient` is the server's own identity.",
        show_default=False,
    ),
]
Holder = Annotated[
    str,
    typer.Option(
        help="Only keys of this AWS account, Azure tenant, Google project (projects/ID), "
        "or vault (https://…).",
        show_default=False,
    ),
]
MostUses = Annotated[int, typer.Option("--limit", min=0, help="Most uses to show; 0 shows all.")]


def key_usage(
    session: Session,
    uri: Uri = "",
    *,
    version: Version = "",
    principal: OnlyPrincipal = "",
    holder: Holder = "",
    limit: MostUses = LIMIT,
) -> None:
    """Show what needs a root key, and whether it may be disabled.

    The answer is about all clusters, those that you may not see as well. It asks no KMS, and
    never says that a key may be deleted: backups may still need it.
    """
    selector = selected(uri, version, principal, holder)
    whole, more = usage_of(session, selector, limit)
    if not session.printed(whole):
        show_key_usage(KeyUsage.from_message(whole), more=more)
    pages.check_usable(whole.not_authentic, whole.banned)


def selected(uri: str, version: str, principal: str, holder: str) -> KeySelector:
    """Returns what the options select, if they name a key or several.

    Raises:
        InputError: They name none.
    """
    if not (uri or principal or holder):
        raise InputError("give the root key's uri, --principal or --holder")
    return KeySelector(uri, version, principal, holder)


def usage_of(
    session: Session, selector: KeySelector, limit: int, what_if: WhatIf | None = None
) -> tuple[api.ListKeyUsageResponse, bool]:
    """Asks for uses, page by page, up to a limit; 0: all of them.

    Returns:
        The pages merged, and whether there are more uses. The answer is that of the first page,
        unless a later one has rows that are not authentic.
    """
    first = first_key_usage(selector, min(limit or LIMIT, LIMIT), what_if)
    whole = session.client.send(first)
    page: KeyUsagePage | None = next_page(first, whole)
    while page is not None and (not limit or len(whole.uses) < limit):
        response = session.client.send(page)
        page = next_page(page, response)
        whole.uses.extend(response.uses)
        whole.not_authentic.extend(response.not_authentic)
        whole.banned.extend(response.banned)
        whole.reasons.extend(response.reasons)
        if response.HasField("safe_to_disable"):
            whole.safe_to_disable = response.safe_to_disable
    more = page is not None or bool(limit and len(whole.uses) > limit)
    if limit:
        del whole.uses[limit:]
    whole.next_page_token = ""
    return whole, more
