"""A desk at which customers type `aws`, `gcloud` and `az`, and the counterparts obey.

It puts programs of these names into a folder. Each sends its arguments here, to the process that
has the counterparts, and prints the answer.
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from counterparts.shell import CommandError


@dataclass(frozen=True)
class Typed:
    """A command as somebody typed it.

    Attributes:
        words: What follows the program's name.
        folder: The folder in which it was typed.
        out: A path at which to write the program's output.
        err: A path at which to write the program's errors.
    """

    words: list[str]
    folder: Path
    out: Path
    err: Path


Command = Callable[[Typed], str | int]
"""Runs one command; returns its output or, if it has written that itself, its exit code.

It raises CommandError with the text that the program prints as its error."""

_PROGRAM: Final = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as desk:
    desk.connect({address!r})
    with desk.makefile("rw") as line:
        line.write(json.dumps([{name!r}, sys.argv[1:], os.getcwd(), os.getpid()]) + "\\n")
        line.flush()
        output, error, code = json.loads(line.readline())
sys.stdout.write(output)
sys.stderr.write(error)
sys.exit(code)
"""


class Desk:
    """The programs of some clouds, for use in a `with`.

    Args:
        folder: An empty folder.
        commands: The command of each program.

    Attributes:
        bin: The folder with the programs, for the PATH.
    """

    def __init__(self, folder: Path, commands: Mapping[str, Command]) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        address = folder / "desk"
        for name in commands:
            program = self.bin / name
            text = _PROGRAM.format(python=sys.executable, address=str(address), name=name)
            program.write_text(text, encoding="utf-8")
            program.chmod(0o755)

        class Customer(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                name, words, folder, process = json.loads(self.rfile.readline())
                streams = Path(f"/proc/{process}/fd")
                typed = Typed(words, Path(folder), streams / "1", streams / "2")
                answer = _answered(name, commands[name], typed)
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        self._server = socketserver.ThreadingUnixStreamServer(str(address), Customer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        """Opens the desk."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the desk."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _answered(name: str, command: Command, typed: Typed) -> tuple[str, str, int]:
    """Returns what a program prints and its exit code."""
    try:
        answer = command(typed)
    except CommandError as error:
        return "", f"{name}: {error}\n", 1
    if isinstance(answer, int):
        return "", "", answer
    return (f"{answer}\n" if answer else ""), "", 0


def options(words: list[str], flags: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Returns the value of each option, True for a flag.

    Raises:
        CommandError: A word belongs to no option, or an option has no value or comes twice.
    """
    found: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--") or word in found:
            raise CommandError(f"{word} belongs to no option, or comes twice")
        name, equals, value = word.partition("=")
        if name in flags:
            found[name] = True
            continue
        given = value if equals else next(rest, None)
        if given is None:
            raise CommandError(f"{name} has no value")
        found[name] = given
    return found
