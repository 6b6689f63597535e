"""Runs the `keyfold` command: in this process, with files of its own, or on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO, TypeAlias

from typer.testing import CliRunner

import nursery
from keyfold.cli.app import app

_PATIENCE: Final = 20.0
"""Seconds that a test waits for a command on a terminal."""

_MAIN = "from keyfold.cli import main; main()"

File: TypeAlias = Path | int
"""A file, or a descriptor of this process."""


def start(
    target: str,
    arguments: Iterable[str],
    *,
    source: File = Path(os.devnull),
    out: File,
    err: File,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes] | nursery.Forked:
    """Starts the command as a process with files of its own, which this process may then close."""
    whole = {**os.environ, "KEYFOLD_TARGET": target, **(environment or {})}
    if nursery.fits(whole):
        return nursery.shared().start(
            "keyfold",
            arguments,
            folder=Path.cwd(),
            environment=whole,
            source=_path(source),
            out=_path(out),
            err=_path(err),
        )
    with ExitStack() as opened:
        files = [
            file if isinstance(file, int) else opened.enter_context(file.open(mode))
            for file, mode in ((source, "rb"), (out, "ab"), (err, "ab"))
        ]
        command = [sys.executable, "-c", _MAIN, *arguments]
        stdin, stdout, stderr = files
        return subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True, env=whole
        )


def _path(file: File) -> Path:
    return Path(f"/proc/{os.getpid()}/fd/{file}") if isinstance(file, int) else file


@dataclass(frozen=True)
class Piped:
    """The command, running with pipes for its output.

    Attributes:
        process: Its process.
        out: The lines that it prints.
        err: Those that it prints on stderr.
    """

    process: subprocess.Popen[bytes] | nursery.Forked
    out: TextIO
    err: TextIO

    def interrupt(self) -> tuple[int, str, str]:
        """Sends what Ctrl-C sends; returns the exit code, and what came since on out and err."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(_PATIENCE), self.out.read(), self.err.read()


@contextmanager
def piped(target: str, *arguments: str) -> Iterator[Piped]:
    """Runs the command with pipes for its output, until the block ends."""
    (out, its_out), (err, its_err) = os.pipe(), os.pipe()
    with os.fdopen(out) as out_lines, os.fdopen(err) as err_lines:
        try:
            process = start(target, arguments, out=its_out, err=its_err)
        finally:
            os.close(its_out)
            os.close(its_err)
        try:
            yield Piped(process, out_lines, err_lines)
        finally:
            process.kill()
            process.wait(_PATIENCE)


@dataclass(frozen=True)
class Ran:
    """The exit code and the output of a command that has ended."""

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
        """Runs the command with pipes for stdin, stdout and stderr."""
        environment = {"KEYFOLD_TARGET": self.target}
        given = [str(one) for one in arguments]
        result = CliRunner().invoke(app, given, input=stdin, env=environment)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout_bytes, result.stderr)


class Terminal:
    """The command, running on a terminal of its own.

    Attributes:
        seen: The text that the command has printed on the terminal so far.
    """

    def __init__(
        self, target: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.seen = ""
        self._read = 0
        self._ours, theirs = pty.openpty()
        try:
            self._process = start(
                target,
                arguments,
                source=theirs,
                out=theirs,
                err=theirs,
                environment={"TERM": "xterm", **(environment or {})},
            )
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(timeout=_PATIENCE)
        os.close(self._ours)

    def until(self, text: str) -> None:
        """Waits until a text appears after the text of the call before."""
        ends = time.monotonic() + _PATIENCE
        while (at := self.seen.find(text, self._read)) < 0:
            if time.monotonic() > ends or not self._more():
                raise AssertionError(f"{text!r} did not come: {self.seen[self._read :]!r}")
        self._read = at + len(text)

    def type(self, text: str) -> None:
        """Types a text."""
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """Sends the command what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Sends the command what the end of a login session sends."""
        self._process.terminate()

    def end(self) -> int:
        """Waits until the command has ended, and returns its exit code."""
        ends = time.monotonic() + _PATIENCE
        while time.monotonic() < ends and self._more():
            pass
        return self._process.wait(timeout=_PATIENCE)

    def _more(self) -> bool:
        """Reads new output, or waits a moment; returns False once the command has ended."""
        if not select.select([self._ours], [], [], 0.2)[0]:
            return True
        try:
            part = os.read(self._ours, 65536)
        except OSError:  # Linux raises it once the other side is closed
            return False
        self.seen += part.decode(errors="replace")
        return bool(part)


def on_terminal(
    target: str,
    *arguments: str,
    typed: str = "",
    prompt: str = "",
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Runs the command on a terminal, and types a text once a prompt appears.

    Returns:
        The exit code, and the text that the command has printed on the terminal.
    """
    with Terminal(target, *arguments, environment=environment) as terminal:
        if typed:
            terminal.until(prompt)
            terminal.type(typed)
        return terminal.end(), terminal.seen
