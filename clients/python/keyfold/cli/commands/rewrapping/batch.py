"""Runs `rewrap --batch`: a count of the input first, or the whole way from input to output."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

import typer

from keyfold.cli.commands.rewrapping.checkpoint import Checkpoint, Resumable
from keyfold.cli.commands.rewrapping.line import Defaults, Entry
from keyfold.cli.commands.rewrapping.pipeline import Pipeline, Result, Window, parts, windows
from keyfold.cli.commands.rewrapping.report import show_census, show_summary
from keyfold.cli.commands.rewrapping.tally import Tally
from keyfold.cli.errors import InputError
from keyfold.cli.input.json_lines import read_lines
from keyfold.cli.input.streams import STDIO, is_same, open_input, open_output, size_of
from keyfold.cli.output.progress import Progress
from keyfold.cli.session import Session
from keyfold.errors import KeyfoldError

if TYPE_CHECKING:
    from hashlib import _Hash

_UNDER_WAY: Final = 2
"""Windows in memory: while one is sent, the next one is read and its calls wait."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a run.

    Attributes:
        source: The input's path, or `-` or None for stdin.
        target: The output's path, or `-` or None for stdout.
        checkpoint: The checkpoint's path; None for a run that cannot be resumed.
    """

    source: str | None
    target: str | None
    checkpoint: Path | None


class _Output(Protocol):
    """Takes the lines of a window, and how far the input is read with them."""

    def write(self, data: bytes, read: int, digest: _Hash, tally: Tally) -> None: ...


class _Stream:
    """An output without a checkpoint."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes, read: int, digest: _Hash, tally: Tally) -> None:  # noqa: ARG002
        self._file.write(data)
        self._file.flush()


def census(session: Session, defaults: Defaults, source: str | None) -> None:
    """Counts what `rewrap` would have to do, and prints it; moves nothing."""
    tally, calls = Tally(), 0
    with open_input(source) as file, Progress(None, size=size_of(file)) as progress:
        for window in windows(read_lines(file, hashlib.sha256()), defaults):
            tally = tally.counted(window.entries)
            calls += sum(1 for _ in parts(window.entries))
            progress.add(len(window.entries), window.size)
    show_census(session, tally, calls, moves=defaults.move is not None)


def rewrap(session: Session, defaults: Defaults, files: Files, concurrency: int) -> None:
    """Rewraps the wrapped key of each line.

    Raises:
        InputError: A file cannot be used.
        KeyfoldError: The server did not answer for too long, or does not know the caller.
        typer.Exit: A line failed; the exit code is that of the first one that did.
    """
    with open_input(files.source) as read:
        _check_apart(read, files)
        with _opened(files, defaults) as (output, checkpoint):
            digest = hashlib.sha256()
            if files.checkpoint is not None:
                digest = checkpoint.skip(read, files.checkpoint)
            before = checkpoint.tally.lines
            progress = Progress(files.target, size=size_of(read), done=checkpoint.read)
            run = _Run(session, output, progress, checkpoint.read, checkpoint.tally)
            try:
                with progress:
                    run.all(read, digest, defaults, concurrency)
            except (KeyboardInterrupt, KeyfoldError, InputError):
                if files.checkpoint is not None:
                    typer.echo(
                        f"{run.tally.lines:,} lines are done; the same command goes on from there",
                        err=True,
                    )
                raise
    show_summary(session, run.tally, before, datetime.now(UTC))
    if run.tally.code:
        raise typer.Exit(run.tally.code)


class _Run:
    """The way of the lines from the input to the output.

    Attributes:
        tally: The counts of the lines that the output has.
    """

    def __init__(
        self, session: Session, output: _Output, progress: Progress, read: int, tally: Tally
    ) -> None:
        self._session = session
        self._output = output
        self._progress = progress
        self._read = read
        self.tally = tally

    def all(self, file: BinaryIO, digest: _Hash, defaults: Defaults, concurrency: int) -> None:
        """Sends the rest of the input, and writes the results in the order of the lines."""
        waiting: deque[tuple[Window, _Hash]] = deque()
        lines = read_lines(file, digest, number=self.tally.lines)
        with Pipeline(self._session.client, concurrency) as pipeline:
            for window in windows(lines, defaults):
                pipeline.send(window)
                # The digest has the bytes up to the window's end, and goes on with the next one.
                waiting.append((window, digest.copy()))
                if len(waiting) == _UNDER_WAY:
                    self._write(*waiting.popleft())
            while waiting:
                self._write(*waiting.popleft())

    def _write(self, window: Window, digest: _Hash) -> None:
        """Waits for a window's results, and writes them.

        What is counted changes after the lines are on the disk, so Ctrl-C at any moment leaves
        counts that are true.
        """
        results: list[Result | None] = [None] * len(window.entries)
        unsent = window.size
        for indexes, future in window.sent:
            for index, result in zip(indexes, future.result(), strict=True):
                results[index] = result
            size = sum(window.entries[index].line.size for index in indexes)
            unsent -= size
            self._progress.add(len(indexes), size)
        done = list(zip(window.entries, results, strict=True))
        tally, read = self.tally.after(done), self._read + window.size
        data = b"".join(_shown(entry, result) for entry, result in done)
        self._output.write(data, read, digest, tally)
        self.tally, self._read = tally, read
        self._progress.add(0, unsent)


def _shown(entry: Entry, result: Result | None) -> bytes:
    if result is not None:
        return entry.with_result(result)
    if entry.error is not None:
        return entry.with_error(entry.error)
    return entry.unchanged()


@contextmanager
def _opened(files: Files, defaults: Defaults) -> Iterator[tuple[_Output, Checkpoint]]:
    if files.checkpoint is None:
        with open_output(files.target, secret=False) as file:
            yield _Stream(file), Checkpoint(str(defaults))
        return
    if files.target in (None, STDIO):
        raise InputError("--checkpoint needs --out FILE: stdout cannot be cut off and continued")
    path = Path(files.target or "")
    if path.exists() and not path.is_file():
        raise InputError(f"--checkpoint needs a file to write to, which {path} is not")
    with Resumable.opened(str(path), files.checkpoint, str(defaults)) as output:
        yield output, output.checkpoint


def _check_apart(read: BinaryIO, files: Files) -> None:
    """Refuses to write over what is read.

    Raises:
        InputError: Two of the files are one.
    """
    named = [("stdout" if files.target in (None, STDIO) else "--out", files.target)]
    if files.checkpoint is not None:
        named.append(("--checkpoint", str(files.checkpoint)))
    for name, target in named:
        if is_same(read, target):
            raise InputError(f"{name} is the input itself; name another file")
    if files.checkpoint and Path(files.target or STDIO).resolve() == files.checkpoint.resolve():
        raise InputError("--checkpoint is --out itself; name another file")
