"""The programs look alike: their help, their version, and how they say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from keyfold.cli.app import app as keyfold
from keyfold.version import __version__
from keyfold_console.command import app as keyfold_console
from keyfold_relay.commands import app as keyfold_relay
from keyfold_server.admin import app as keyfold_server

PROGRAMS = {
    "keyfold": (keyfold, ["apply", "--file"]),
    "keyfold-console": (keyfold_console, ["run", "--tls-key", "none", "--tls-cert"]),
    "keyfold-relay": (keyfold_relay, ["check"]),
    "keyfold-server": (keyfold_server, ["policy", "explain", "--as", "local", "--file"]),
}
"""Each program, and a command whose next argument is a file that it reads."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_look(name: str, tmp_path: Path) -> None:
    """Each program has -h and --version, completes itself, and says errors in the same way."""
    app, reading = PROGRAMS[name]

    def ran(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, arguments, prog_name=name)
        return result.exit_code, result.stdout, result.stderr

    code, told, _ = ran("-h")
    assert (code, told) == (0, ran("--help")[1])
    assert told.startswith(f"Usage: {name} [OPTIONS] COMMAND [ARGS]...\n")
    assert {"--version", "--install-completion", "-h,"} <= set(told.split())
    assert ran("--version") == (0, f"{name} {__version__}\n", "")
    code, _, wrong = ran("nosuch")
    assert (code, wrong.splitlines()[1:]) == (
        2,
        [f"Try '{name} -h' for help.", "", "Error: No such command 'nosuch'."],
    )
    code, told, wrong = ran(*reading, str(tmp_path / "none"))
    assert (code, told) == (2, "")
    assert wrong.startswith("error: cannot read ")
    assert wrong.count("\n") == 1


def test_their_apps_are_typers() -> None:
    """The table above has every program of the project."""
    assert all(isinstance(app, typer.Typer) for app, _ in PROGRAMS.values())
