"""The command `usage`: how often callers used keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from keyfold.calls.usage import UsageFilter, first_usage, usage_of
from keyfold.cli.commands.events import ByCaller, Since, Until
from keyfold.cli.errors import InputError
from keyfold.cli.input.values import moment, seconds
from keyfold.cli.output.usage import show_usage
from keyfold.cli.session import Session

LIMIT = 1_000
"""Counts that the command shows if --limit does not say how many."""


def usage(
    session: Session,
    cluster: Annotated[
        str, typer.Argument(metavar="[CLUSTER]", help="The cluster's name.", show_default=False)
    ] = "",
    *,
    organization: Annotated[
        str,
        typer.Option(help="Only clusters of this organization.", show_default=False),
    ] = "",
    caller: ByCaller = "",
    since: Since = "24h",
    until: Until = None,
    span: Annotated[
        str, typer.Option(help="Add the uses up over this time, such as 1m, 1h or 24h.")
    ] = "1h",
    limit: Annotated[int, typer.Option(min=0, help="Most counts to show; 0 shows all.")] = LIMIT,
) -> None:
    """Show how often callers used the keys of clusters, and with which outcome.

    The counts come up to a minute late, and a server that is killed loses those of its last
    minute.
    """
    length = seconds(span, "--span")
    if not length or length % 60:
        raise InputError(f"--span must be a whole number of minutes, and not {span}")
    narrow = UsageFilter(
        cluster=cluster,
        organization=organization,
        caller=caller,
        start=None if since is None else moment(since, "--since"),
        end=None if until is None else moment(until, "--until"),
        span=timedelta(seconds=length),
    )
    whole, more = session.listed(first_usage(narrow, min(limit, 1_000)), "counts", limit=limit)
    if not session.printed(whole):
        show_usage(usage_of(whole), more=more)
