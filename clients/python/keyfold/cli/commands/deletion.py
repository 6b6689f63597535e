"""The commands that end the life of a cluster's keys: `delete`, `undelete`."""

# ruff: noqa: PLR0913  one argument for each option

from __future__ import annotations

import sys
from datetime import timedelta
from functools import partial
from typing import Annotated, Final

import typer

from keyfold import calls
from keyfold.cli.errors import InputError
from keyfold.cli.input.confirmation import confirm
from keyfold.cli.input.options import (
    Cluster,
    NamedRegion,
    Reason,
    RequestId,
    WaitingPeriod,
    Yes,
)
from keyfold.cli.input.values import seconds
from keyfold.cli.output.changes import show_change
from keyfold.cli.output.deletion import show_deleted, show_losses
from keyfold.cli.output.text import one_line
from keyfold.cli.session import Session

_WAITING: Final = "--waiting-period"


def delete(
    session: Session,
    cluster: Cluster,
    *,
    region: NamedRegion = None,
    all_regions: Annotated[
        bool, typer.Option("--all-regions", help="Delete every region, and with them the cluster.")
    ] = False,
    waiting_period: WaitingPeriod = None,
    reason: Reason = "",
    validate_only: Annotated[
        bool,
        typer.Option("--validate-only", help="Show what would become unreadable; store nothing."),
    ] = False,
    yes: Yes = False,
    request_id: RequestId = None,
) -> None:
    """Delete the keys of revoked regions for good.

    After the waiting period Keyfold erases them, and nothing opens any more what they wrapped. The
    command shows what that is and when, and asks for confirmation; without a terminal to ask at it
    needs --yes. With --waiting-period 0s a cluster that nobody ever used goes at once, revoked or
    not, and an operator may do that.
    """
    if all_regions == bool(region):
        raise InputError("name the regions with --region, or give --all-regions, but not both")
    waiting = waiting_span(waiting_period)
    call = partial(
        calls.delete_cluster,
        cluster,
        region or (),
        all_regions=all_regions,
        waiting_period=waiting,
        reason=reason,
    )
    if not (yes or validate_only):
        what = one_line(f"{', '.join(region)} of {cluster}" if region else f"all of {cluster}")
        if sys.stdin.isatty():
            planned, _ = session.ask(call(request_id=None, validate_only=True))
            show_losses(planned)
        confirm(f"Delete the keys of {what}?", f"{what}: not deleted", yes=yes)
    result, message = session.ask(call(request_id=request_id or None, validate_only=validate_only))
    if not session.printed(message, cluster):
        show_deleted(result, validated=validate_only)


def waiting_span(text: str | None) -> timedelta | None:
    """Reads --waiting-period.

    Raises:
        InputError: It is not a duration, or too long to be one.
    """
    try:
        return None if text is None else timedelta(seconds=seconds(text, _WAITING))
    except OverflowError:
        raise InputError(f"{_WAITING}: {text!r} is too long; the most is 90d") from None


def undelete(
    session: Session,
    cluster: Cluster,
    *,
    region: NamedRegion = None,
    reason: Reason = "",
    request_id: RequestId = None,
) -> None:
    """Take a deletion back before Keyfold has erased the keys.

    The regions are revoked again, as they were before. It asks no KMS and so proves no key:
    `restore` does, and takes the regions back into service.
    """
    result, message = session.ask(
        calls.undelete_cluster(cluster, region or (), reason, request_id or None)
    )
    if not session.printed(message):
        show_change(result, "no region is deleted any more; `keyfold restore` proves the keys")
