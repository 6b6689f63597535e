"""The result of a change, as text for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import typer

from keyfold.cli.output.status import show_status
from keyfold.cli.output.text import one_line
from keyfold.models.results import Change
from keyfold.models.status import PendingReplica


def show_change(result: Change, done: str, *, validated: bool = False) -> None:
    """Prints what the command did, and the cluster's status after it.

    Args:
        result: The change.
        done: A word for the change, such as `rotated`.
        validated: Whether the command only tried the change.
    """
    if validated:
        done = "valid; nothing was stored, and the cluster would become:"
    elif result.replayed:
        done = "Keyfold had already made this change; the cluster is now:"
    typer.echo(done)
    if result.superseded:
        typer.echo("a later change has replaced what this one did")
    show_status(result.status)


def show_confirmed(
    confirmed: Collection[str], pending: Collection[PendingReplica], operation: str = ""
) -> None:
    """Prints how many replicas have stopped using the keys, and how long the others may go on.

    Args:
        confirmed: The replicas that have stopped using them.
        pending: The others.
        operation: The name of the operation that shows it later, or empty.
    """
    typer.echo(f"confirmed by {len(confirmed)} of {len(confirmed) + len(pending)} replicas")
    show_pending(pending)
    if pending and operation:
        typer.echo(f"to follow it: keyfold operations wait {one_line(operation)}")


def show_pending(pending: Iterable[PendingReplica]) -> None:
    """Prints how long each replica that has not confirmed a change may go on as before."""
    for one in pending:
        within = one.stops_within.total_seconds()
        replica = one_line(one.replica)
        typer.echo(f"{replica} has not confirmed yet; it may go on as before for {within:.0f} s")
