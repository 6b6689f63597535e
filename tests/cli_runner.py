"""Runs the `keyfold` command in this process, or on a terminal of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from keyfold.cli.app import app

_MAIN = "from keyfold.cli import main; main()"


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)["error"]

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Cli:
    """The command against one server."""

    target: str

    def __call__(self, *arguments: str | Path, stdin: bytes | str = b"") -> Ran:
        """Runs it with pipes for stdin, stdout and stderr."""
        environment = {"KEYFOLD_TARGET": self.target}
        given = [str(one) for one in arguments]
        result = CliRunner().invoke(app, given, input=stdin, env=environment)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout_bytes, result.stderr)


def on_terminal(
    target: str,
    *arguments: str,
    typed: str = "",
    prompt: str = "",
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Runs the command on a terminal; types once the prompt is there.

    Returns:
        The exit code, and everything that stood on the terminal.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "KEYFOLD_TARGET": target, "TERM": "xterm", **(environment or {})},
    )
    os.close(theirs)
    seen = _watch(ours, prompt, typed)
    os.close(ours)
    return process.wait(timeout=10), seen


def _watch(terminal: int, prompt: str, typed: str) -> str:
    seen = ""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            part = os.read(terminal, 65536)
        except OSError:  # what Linux says when the other side is closed
            break
        if not part:
            break
        seen += part.decode()
        if typed and prompt in seen:
            os.write(terminal, typed.encode())
            typed = ""
    return seen
