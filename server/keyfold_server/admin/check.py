"""The command `check`: a deployment seen from inside, with the server's own settings."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyfold_server.admin.server import asked
from keyfold_server.admin.terminal import app, fail, reported

if TYPE_CHECKING:
    from keyfold_server.settings import Settings


class Form(StrEnum):
    """A form of output."""

    TEXT = "text"
    JSON = "json"


@app.command()
def check(
    *,
    timeout: Annotated[
        float, typer.Option(min=1, max=600, help="Most seconds that each step may take.")
    ] = 10.0,
    keys: Annotated[
        int, typer.Option(min=0, max=10_000, help="Most root keys of clusters to try.")
    ] = 20,
    anchors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Hold the log against the lines in FILE, which `keyfold events anchor` printed.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        Form, typer.Option("--output", "-o", help="What to print; json is for a support ticket.")
    ] = Form.TEXT,
) -> None:
    """Check this deployment from inside: settings, store, keys, certificates, policy and machine.

    It changes nothing, and may run beside a server of the same settings. Each line says what was
    seen, and what to do. The root keys are tried as TestKey does, with the server's credentials.
    Nothing that it prints is secret. `keyfold check` looks from outside.

    Exit codes: 0 nothing failed, 2 wrong usage, 14 a check failed, 15 nothing failed and something
    could not be told.
    """
    from keyfold.checks import Report
    from keyfold.version import __version__
    from keyfold_server.bootstrap import checking

    # Whatever the server would log at its start is a line of the report.
    logging.disable()
    with reported():
        try:
            lines = () if anchors is None else tuple(anchors.read_text("utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise fail(f"--anchors: {anchors} cannot be read: {error}") from None
        about = os.environ.get("KEYFOLD_CONFIG") or "the settings of the environment"
        report = Report("keyfold-server check", __version__, about)
        checking.inside(report, checking.Asked(timeout, lines, keys, _health))
    if form is Form.JSON:
        typer.echo(report.json())
    else:
        for line in report.lines():
            typer.echo(line)
    if report.hung:
        # A step that hangs, in a name look-up for example, must not keep the command.
        sys.stdout.flush()
        os._exit(report.exit_code)
    raise typer.Exit(report.exit_code)


def _health(settings: Settings) -> str:
    return asked(settings, settings.listen, 3.0)
