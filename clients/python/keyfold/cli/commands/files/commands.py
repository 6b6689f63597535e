"""The commands that encrypt files: `encrypt`, `decrypt`, `rekey`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, BinaryIO, Final

import typer

from keyfold import errors
from keyfold.cli.commands.files.places import Places, decrypted, encrypted
from keyfold.cli.commands.files.rekeying import rekey_file
from keyfold.cli.errors import NOT_NOW, ExitCode, InputError, exit_code, report
from keyfold.cli.input.options import Cluster
from keyfold.cli.input.streams import STDIO, note, open_input, open_output, size_of
from keyfold.cli.input.values import pairs
from keyfold.cli.output.forms import Form
from keyfold.cli.output.progress import Progress
from keyfold.cli.output.text import counted
from keyfold.cli.session import Session
from keyfold.envelope import Envelope
from keyfold.errors import KeyfoldError

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE",
        help="The files; - is stdin, whose output goes to stdout.",
        show_default=False,
    ),
]
Context = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="An entry of the context that is bound to the data key; repeat it for more.",
    ),
]
Demanded = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        metavar="NAME=VALUE",
        help="An entry that the context of each file's data key must have; repeat it for more.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="PATH",
        help="Write to this file, to files in this folder, or with - to stdout.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]

Step = Callable[[str], dict[str, Any]]
"""Does the work for one file. Returns what `--json` shows of it."""

_STOPS: Final = (
    *NOT_NOW,
    errors.ExtraMissingError,
    errors.UnauthenticatedError,
    errors.UnimplementedError,
)
"""Errors that every other file would get, too: the command stops."""

_PART: Final = 128 * 1024
"""Bytes that are read at once. The system gives and takes larger pieces of memory page by page."""


def encrypt(
    session: Session,
    cluster: Cluster,
    files: Names,
    *,
    region: Annotated[str, typer.Option(help="The region whose key wraps.", show_default=False)],
    context: Context = None,
    output: Output = None,
    force: Force = False,
) -> None:
    """Encrypt files, of any size.

    FILE becomes FILE.keyfold, and stays. The output has its wrapped data key and its context in
    front; `decrypt` needs nothing else. An output that is there is complete.
    """
    envelope = Envelope(session.client, cluster, region, context=pairs(context or (), "--context"))
    places = Places(files, output, encrypted, over=force)

    def step(name: str) -> dict[str, Any]:
        with _reading(name) as source:
            place = places.of(name, source.file)
            if place == STDIO and sys.stdout.isatty():
                raise InputError("stdout is a terminal; name a file with --out, or use a pipe")
            with (
                source.shown(place),
                open_output(place, secret=False, over=force) as target,
                envelope.seal_stream(target) as stream,
            ):
                shutil.copyfileobj(source, stream, _PART)
        return _done(session, name, place)

    _each(session, files, step)


def decrypt(
    session: Session,
    cluster: Cluster,
    files: Names,
    *,
    context: Demanded = None,
    output: Output = None,
    force: Force = False,
) -> None:
    """Decrypt files.

    FILE.keyfold becomes FILE, which only you may read, and stays. The output appears when all of it
    was checked, and not at all if the input was cut, changed or put together from several. On
    stdout checked parts come out before the end: use them only if the exit code is 0.
    """
    envelope = Envelope(session.client, cluster, "", context=pairs(context or (), "--context"))
    places = Places(files, output, decrypted, over=force)

    def step(name: str) -> dict[str, Any]:
        with _reading(name) as source:
            place = places.of(name, source.file)
            with (
                source.shown(place),
                open_output(place, secret=True, over=force) as target,
                envelope.open_stream(source) as stream,
            ):
                shutil.copyfileobj(stream, target, _PART)
        return _done(session, name, place)

    _each(session, files, step)


def rekey(session: Session, cluster: Cluster, files: Names, *, context: Demanded = None) -> None:
    """Move the wrapped key of encrypted files to the newest generation.

    A file is written anew beside itself, and then replaces itself in one step, with its owner and
    mode. The data is copied as it is and never decrypted. A file whose key is current stays as it
    is.
    """
    envelope = Envelope(session.client, cluster, "", context=pairs(context or (), "--context"))
    if files.count(STDIO) > 1:
        raise InputError("- is given twice, and stdin can be read once")

    def step(name: str) -> dict[str, Any]:
        if name == STDIO:
            with _reading(name) as source, open_output(STDIO, secret=False) as target:
                target.write(envelope.rekey_header(source))
                shutil.copyfileobj(source, target, _PART)
            return {}
        moved = rekey_file(envelope, name)
        if session.form is not Form.JSON:
            note(f"{name} {'has a new wrapped key' if moved else 'was current'}")
        return {"file": name, "moved": moved}

    _each(session, files, step)


def _each(session: Session, files: list[str], step: Step) -> None:
    """Takes a step for each file, also after one that failed.

    Raises:
        KeyfoldError: Every further file would fail, too.
        typer.Exit: A file failed; the exit code is that of the first one that did.
    """
    as_json = session.form is Form.JSON
    code = ExitCode.OK
    for number, name in enumerate(files, 1):
        try:
            shown = step(name)
        except _STOPS:
            if left := len(files) - number:
                typer.echo(
                    f"stopped at {_shown(name)}; {counted(left, 'file')} not begun", err=True
                )
            raise
        except KeyfoldError as error:
            code = code or exit_code(type(error))
            report(error, session.parsed, as_json=as_json, file=_shown(name))
        except InputError as error:
            code = code or ExitCode.INVALID
            report(error, session.parsed, as_json=as_json, file=_shown(name))
        else:
            if as_json and shown:
                typer.echo(json.dumps(shown, ensure_ascii=False))
    if code:
        raise typer.Exit(code)


def _shown(name: str) -> str:
    return "stdin" if name == STDIO else name


def _done(session: Session, name: str, place: str) -> dict[str, Any]:
    """Says that a file is done."""
    if place == STDIO:
        return {}
    if session.form is not Form.JSON:
        note(f"{name} -> {place}")
    return {"file": name, "output": place}


class _Reading:
    """A file that is read, and shows on a terminal how far.

    Attributes:
        file: The file.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.file = file
        self._name = _shown(name)
        self._progress: Progress | None = None

    def read(self, size: int = -1, /) -> bytes:
        """Reads at most so many bytes; all if the size is negative.

        Raises:
            InputError: They cannot be read.
        """
        try:
            data = self.file.read(size)
        except OSError as problem:
            raise InputError(f"cannot read {self._name}: {problem.strerror}") from problem
        if self._progress is not None:
            self._progress.add(0, len(data))
        return data

    @contextmanager
    def shown(self, place: str) -> Iterator[None]:
        """Shows how far it is read while the block goes on.

        Args:
            place: Where the output goes.
        """
        with Progress(place, size=size_of(self.file), file=self._name) as self._progress:
            yield


@contextmanager
def _reading(name: str) -> Iterator[_Reading]:
    with open_input(name) as file:
        yield _Reading(name, file)
