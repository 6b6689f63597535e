"""Both programs of the package say their version and their help in the same way."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

import keyfold
from keyfold.cli.app import app as client
from keyfold_server.admin import app as server

_PROGRAMS = pytest.mark.parametrize(
    ("name", "app", "command"),
    [("keyfold", client, ["status"]), ("keyfold-server", server, ["policy", "check"])],
)


def _run(app: typer.Typer, *words: str) -> str:
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_the_package_has_one_version() -> None:
    """The client names the version of the installed package."""
    assert keyfold.__version__ == version("keyfold")


@_PROGRAMS
def test_a_program_says_its_version(name: str, app: typer.Typer, command: list[str]) -> None:
    """`--version` prints the program's name and the package's version, and does nothing else."""
    assert _run(app, "--version") == f"{name} {version('keyfold')}\n"
    assert _run(app, "--version", *command) == f"{name} {version('keyfold')}\n"


@_PROGRAMS
def test_help_has_a_short_form(name: str, app: typer.Typer, command: list[str]) -> None:
    """`-h` shows the same as `--help`, for the program and for each of its commands."""
    assert name
    for words in ([], command):
        shown = _run(app, *words, "-h")
        assert shown == _run(app, *words, "--help")
        assert "-h, --help" in shown
