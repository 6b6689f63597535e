"""The command `check`, and the order of its checks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer

from keyfold.checks import Report
from keyfold.cli.commands.check import clusters, way
from keyfold.cli.commands.check.service import Fleet
from keyfold.cli.common import Unopened
from keyfold.cli.errors import InputError
from keyfold.cli.output.documents import as_yaml
from keyfold.cli.output.forms import Form
from keyfold.errors import InvalidInputError
from keyfold.probe import PREFIX
from keyfold.transport.target import addresses_of
from keyfold.version import __version__

_STEP: Final = 10.0
"""Seconds that a step may take if --timeout does not say it."""


@contextmanager
def nothing_opened(made_from: Unopened) -> Iterator[Unopened]:
    """Gives the command its options unread: a file that cannot be read is one of its findings."""
    yield made_from


def check(
    options: Unopened,
    *,
    probe: Annotated[
        str,
        typer.Option(
            metavar="CLUSTER",
            help=f"Also take this cluster, whose name begins with {PREFIX}, through a revocation, "
            "as `keyfold probe` does.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Check a deployment from outside: network, TLS, clocks, versions, rights and regions.

    Each line says what was seen, and what to do. Nothing that it prints is secret, so -o json is
    good for a support ticket. It changes nothing, unless you ask for the probe. --timeout bounds
    each step, 10s by default. On a server's machine, `keyfold-server check` looks from inside.

    The exit code is 14 if a check failed, and 15 if none failed and something could not be told.
    """
    seconds = options.timeout or _STEP
    if probe and not probe.startswith(PREFIX):
        raise InputError(f"--probe revokes its cluster, so the name must begin with {PREFIX}")
    try:
        addresses = addresses_of(options.target)
    except InvalidInputError as error:
        raise InputError(error.message) from error
    report = Report("keyfold check", __version__, options.target)
    report.run("client", seconds, way.client)
    report.run("credentials", seconds, lambda: way.credentials(options))
    for address in addresses:
        step = way.Connection(options, address, seconds)
        report.run(f"connection {address}", seconds * 2, step)
    fleet = Fleet(options, addresses, seconds)
    for name, question in fleet.questions():
        report.run(name, seconds * 2, question)
    report.run("regions", seconds * 3, lambda: clusters.regions(fleet))
    if probe:
        report.run("probe", seconds * 6, lambda: clusters.probed(fleet, probe))
    fleet.close()
    _shown(report, options.form)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _shown(report: Report, form: Form) -> None:
    if form is Form.JSON:
        typer.echo(report.json())
    elif form is Form.YAML:
        typer.echo(as_yaml(json.loads(report.json())), nl=False)
    else:
        for line in report.lines():
            typer.echo(line)
