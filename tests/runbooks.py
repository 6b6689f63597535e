"""The commands of docs/operations.md's sections, run one after another as they stand there."""

from __future__ import annotations

import os
import pty
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from e2e.server import ROOT, Server
from keyfold.checks.report import UNKNOWN

_PAGE: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

_LONGEST: Final = 120.0
"""Seconds for which a command is repeated that could not tell."""


def commands(heading: str) -> list[str]:
    """Returns the commands that a section shows, without those of the sections below it."""
    found = re.search(rf"(?ms)^##+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", _PAGE)
    assert found, f"the page has no section {heading}"
    return re.findall(r"(?m)^ {4,}(keyfold.*)$", found[1])


class Runbook:
    """A section's commands, of which `run` runs the next one.

    Attributes:
        left: The commands that nobody has run yet.
    """

    def __init__(
        self, heading: str, server: Server, here: Mapping[str, str], first: int | None
    ) -> None:
        """Reads the section; see `following`."""
        self.left = commands(heading)[:first]
        self._server = server
        self._here = here

    def run(self, *, code: int = 0, answer: str = "", here: Mapping[str, str] | None = None) -> str:
        """Runs the next command against the server.

        Args:
            code: The exit code that it must end with.
            answer: What the operator answers to its question, if it asks one.
            here: What else takes the place of names, in this command alone.

        Returns:
            What it prints.
        """
        line = self.left.pop(0)
        for shown, instead in {**self._here, **(here or {})}.items():
            assert shown in line or shown in self._here, f"{line} does not show {shown}"
            line = re.sub(rf"(?<![\w-]){re.escape(shown)}(?![\w-])", instead, line)
        program, *arguments = shlex.split(line)
        ends = time.monotonic() + _LONGEST
        while True:
            ended, output = self._ran(program, arguments, answer)
            if ended == code or ended != UNKNOWN or time.monotonic() > ends:
                break
            # It says to ask again, which happens on a busy machine.
        assert ended == code, f"{line} ended with {ended}: {output}"
        return output

    def _ran(self, program: str, arguments: list[str], answer: str) -> tuple[int, str]:
        """Runs a command, at a terminal if it asks."""
        if not answer:
            return self._server.ran(program, arguments)
        operator, terminal = pty.openpty()
        try:
            os.write(operator, f"{answer}\n".encode())
            return self._server.ran(program, arguments, Path(f"/proc/{os.getpid()}/fd/{terminal}"))
        finally:
            os.close(operator)
            os.close(terminal)


@contextmanager
def following(
    heading: str, server: Server, here: Mapping[str, str], first: int | None = None
) -> Iterator[Runbook]:
    """Gives a section's commands, all of which must have been run at the block's end.

    Args:
        heading: The section's heading.
        server: The server against which they run.
        here: What takes the place of names and paths on the page.
        first: How many of the commands, if the later ones are not for this case.
    """
    book = Runbook(heading, server, here, first)
    yield book
    assert not book.left, f"{heading}: nobody ran {book.left[0]}"
