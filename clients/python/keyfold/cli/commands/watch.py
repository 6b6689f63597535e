"""`keyfold watch`: prints the states of clusters as they change, or events as they happen."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from keyfold.cli.errors import InputError
from keyfold.cli.output.tables import console
from keyfold.cli.output.text import one_line
from keyfold.cli.output.watch import event_line, state_line
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError
from keyfold.models.events import Event
from keyfold.models.watch import ClusterState

_NAMED: Final = 1_000


def watch(
    session: Session,
    clusters: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CLUSTER]...", help="The clusters; without any, all.", show_default=False
        ),
    ] = None,
    *,
    organization: Annotated[
        str, typer.Option(help="Only clusters of this organization.", show_default=False)
    ] = "",
    events: Annotated[
        bool, typer.Option("--events", help="Print events instead of states.")
    ] = False,
    resume_token: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            help="Go on after the message of --json that had this resume_token.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Print the states of clusters and each change, until Ctrl-C.

    With --events it prints what happens to their keys: every change, attempt and refusal, once and
    in order. With --json each message is a line, heartbeats too. While the server is away, it goes
    on trying, and misses nothing.
    """
    if len(clusters or ()) > _NAMED:
        raise InputError(f"name at most {_NAMED:,} clusters, or use --organization")
    watched = session.client.watch(
        clusters or (),
        organization=organization,
        states=not events,
        events=events,
        resume_token=resume_token,
        on_break=_say,
    )
    try:
        with watched:
            for message in watched:
                if session.streamed(watched.response):
                    pass
                elif isinstance(message, ClusterState):
                    console().print(state_line(message), soft_wrap=True)
                elif isinstance(message, Event):
                    console().print(event_line(message), soft_wrap=True)
                sys.stdout.flush()
    except KeyboardInterrupt:
        # Ctrl-C is how a watch ends, so it is not an error.
        return


def _say(problem: KeyfoldError | None) -> None:
    why = "the server says nothing" if problem is None else one_line(problem.message)
    reason = "" if problem is None else f" ({problem.reason})"
    typer.echo(f"going on after a break: {why}{reason}", err=True)
