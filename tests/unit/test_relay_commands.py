"""The commands of `keyfold-relay`: wrong input ends in a line and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from keyfold_relay.commands.app import app
from keyfold_relay.relay import ExitCode


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("replay", "--first", str(1 << 63)), "--first"),
        (("replay", "--first", "1", "--last", str(1 << 63)), "--last"),
        (("skip", "--to", str(1 << 63)), "--to"),
        (("replay", "--last", "3"), "--last needs --first"),
        (("replay", "--first", "9", "--last", "2"), "--last is before --first"),
    ],
)
def test_wrong_numbers_are_refused(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    """A number that no request can hold, or a range that holds nothing, reaches no server."""
    file = tmp_path / "relay.toml"
    lines = tmp_path / "lines"
    file.write_text(
        f'[keyfold]\ntarget = "127.0.0.1:1"\n[targets.x]\nkind = "file"\npath = "{lines}"\n'
    )
    command, *options = arguments
    done = CliRunner().invoke(app, [command, str(file), "x", *options])
    assert done.exit_code == ExitCode.INVALID
    assert told in done.output
