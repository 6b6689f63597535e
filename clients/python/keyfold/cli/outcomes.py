"""What a change came to, for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import typer

from keyfold.cli.failures import one_line
from keyfold.cli.tables import show_status
from keyfold.models.results import Change
from keyfold.models.status import PendingReplica


def show_change(answer: Change, done: str, *, validated: bool = False) -> None:
    """Prints what was done, and the cluster as it is now."""
    if validated:
        done = "valid; nothing was stored, and this is how it would be"
    elif answer.replayed:
        done = "this request was carried out before; this is how it is now"
    typer.echo(done)
    if answer.superseded:
        typer.echo("something later has changed what that request did")
    show_status(answer.status)


def show_confirmed(confirmed: Collection[str], pending: Collection[PendingReplica]) -> None:
    """Prints how many replicas use the keys no more, and when the others will have stopped."""
    typer.echo(f"confirmed by {len(confirmed)} of {len(confirmed) + len(pending)} replicas")
    show_pending(pending, "will have stopped")


def show_pending(pending: Iterable[PendingReplica], what: str) -> None:
    """Prints the replicas that have not said so yet."""
    for one in pending:
        within = one.stops_within.total_seconds()
        typer.echo(f"{one_line(one.replica)} {what} within {within:.0f} s")
