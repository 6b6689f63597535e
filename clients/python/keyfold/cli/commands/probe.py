"""The command `probe`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Annotated

import typer

from keyfold.cli.errors import ExitCode, InputError, exit_code
from keyfold.cli.input.streams import open_output
from keyfold.cli.input.values import seconds
from keyfold.cli.output.probe import as_metrics, as_objects, show_probe, tell_failed
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError, NotFoundError
from keyfold.probe import PREFIX, Step
from keyfold.probe import probe as run
from keyfold.transport.target import addresses_of


def probe(
    session: Session,
    cluster: Annotated[
        str,
        typer.Argument(metavar="[CLUSTER]", help=f"A cluster whose name begins with {PREFIX}."),
    ] = PREFIX,
    *,
    server: Annotated[
        list[str] | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            help="A server to check besides the target; repeat it for more of them. Of several "
            "addresses, separated by commas, each is checked by itself, here and in the target.",
        ),
    ] = None,
    within: Annotated[
        str, typer.Option(help="How long a server may take to serve again after Restore.")
    ] = "10s",
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Also write the result as Prometheus metrics, to this file."
        ),
    ] = None,
) -> None:
    """Check on the live fleet that a revocation works, on a cluster made for that.

    The command wraps a key and opens it on every server, revokes the cluster, checks that every
    server refuses, restores the cluster, and checks that every server opens the key again. It
    shows how long each step took, and names each server that failed. It revokes no cluster whose
    name begins otherwise.
    """
    if not cluster.startswith(PREFIX):
        raise InputError(
            f"a probe revokes its cluster, so the name must begin with {PREFIX}; {cluster} does not"
        )
    limit = seconds(within, "--within")
    with ExitStack() as opened:
        servers = {session.target: session.client}
        for place in chain.from_iterable(map(addresses_of, (session.target, *(server or ())))):
            if place not in servers:
                servers[place] = opened.enter_context(session.connect(place))
        began = time.monotonic()
        try:
            steps = run(servers, cluster, limit)
        except KeyfoldError as error:
            # Whoever reads the metrics must not go on with the result of the probe before.
            status = Step("status", session.target, time.monotonic() - began, error)
            _write(metrics, [status])
            if not isinstance(error, NotFoundError):
                raise
            raise InputError(
                f"there is no cluster {cluster}; make it for the probe, under a key of its own: "
                f"keyfold enable {cluster} --region REGION=TYPE,URI"
            ) from error
    _write(metrics, steps)
    if not session.printed_object({"steps": as_objects(steps)}):
        show_probe(steps)
        tell_failed(steps)
    if any(step.broken for step in steps):
        raise typer.Exit(ExitCode.BROKEN)
    failed = next((step.error for step in steps if step.error is not None), None)
    if failed is not None:
        raise typer.Exit(exit_code(type(failed)))


def _write(metrics: str | None, steps: Sequence[Step]) -> None:
    """Writes the metrics of a probe to a file, if one was named."""
    if metrics is not None:
        with open_output(metrics, secret=False) as file:
            file.write(as_metrics(steps).encode())
