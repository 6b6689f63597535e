"""Files, pipes and prompts, from which commands read bytes and to which they write them.

Key bytes are never arguments: the shell keeps those in its history, and every user of the machine
sees them in the list of processes.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import typer

from keyfold.cli.errors import InputError
from keyfold.cli.input.replacing import taking_place
from keyfold.cli.input.values import from_base64, to_base64

if TYPE_CHECKING:
    from typing_extensions import Buffer

STDIO: Final = "-"

_MAX_INPUT: Final = 64 * 1024
"""Most bytes of input for one key; a key of 4,096 bytes is far smaller, even as base64."""


def read_key(source: str | None, name: str, *, is_base64: bool) -> bytes:
    """Reads a key from a file or stdin. If stdin is a terminal, prompts for base64 without echo.

    Args:
        source: A path, or `-` or None for stdin.
        name: The key's name in the prompt.
        is_base64: Whether the file or pipe holds base64.

    Raises:
        InputError: The source cannot be read, is larger than 64 KiB, or is not base64.
    """
    prompted = source in (None, STDIO) and sys.stdin.isatty()
    if prompted:
        data = getpass.getpass(f"{name}, base64 (not shown): ").encode()
    else:
        with open_input(source) as file:
            data = file.read(_MAX_INPUT + 1)
    if len(data) > _MAX_INPUT:
        raise InputError(
            f"{_place(source)} is larger than 64 KiB: wrap a data key of at most 4,096 bytes, "
            "and encrypt the data with that key"
        )
    if not prompted and not is_base64:
        return data
    try:
        return from_base64(data)
    except ValueError:
        raise InputError(
            f"{'what was typed' if prompted else _place(source)} is not base64"
        ) from None


def read_wrapped_key(source: str | None) -> bytes:
    """Reads a wrapped key, raw or in base64.

    A wrapped key begins with a version byte that is not a character of base64, so one form is
    never taken for the other.

    Raises:
        InputError: The source cannot be read, or is larger than 64 KiB.
    """
    prompted = source in (None, STDIO) and sys.stdin.isatty()
    data = read_key(source, "Wrapped key", is_base64=False)
    if prompted:
        return data
    try:
        return from_base64(data)
    except ValueError:
        return data


def write_key(data: bytes, target: str | None, *, as_base64: bool, secret: bool) -> None:
    """Writes a key: raw to a file or pipe, and as a line of base64 to a terminal.

    Args:
        data: The key.
        target: A path, or `-` or None for stdout.
        as_base64: Whether to write base64 to files and pipes, too.
        secret: Whether only the file's owner may read it.

    Raises:
        InputError: The target cannot be written.
    """
    to_terminal = target in (None, STDIO) and sys.stdout.isatty()
    text = as_base64 or to_terminal
    with open_output(target, secret=secret) as file:
        file.write(to_base64(data).encode() + b"\n" if text else data)


class _Source(FileIO):
    """A file whose errors say that it cannot be read, also in the middle of it."""

    def readinto(self, buffer: Buffer) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as problem:
            raise InputError(f"cannot read {self.name}: {problem.strerror}") from problem

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as problem:
            raise InputError(f"cannot read {self.name}: {problem.strerror}") from problem


@contextmanager
def open_input(source: str | None) -> Iterator[BinaryIO]:
    """Opens a file, or stdin for `-` and None.

    Raises:
        InputError: The file cannot be read.
    """
    if source in (None, STDIO):
        yield sys.stdin.buffer
        return
    try:
        file = BufferedReader(_Source(source or ""))
    except OSError as problem:
        raise InputError(f"cannot read {source}: {problem.strerror}") from problem
    # Outside: what goes wrong in the block, such as a full disk, is not about this file.
    with file:
        yield file


@contextmanager
def open_output(target: str | None, *, secret: bool, over: bool = True) -> Iterator[BinaryIO]:
    """Opens a file, or stdout for `-` and None.

    The block writes to a new file, which then replaces an old one in one step. A failure half way
    therefore leaves an old key as it was, and a secret never gets into a file that was readable
    for others before.

    Args:
        target: The path.
        secret: Whether only the file's owner may read it.
        over: Whether it may replace a file. A device and a pipe take the bytes in any case.

    Raises:
        InputError: The file cannot be written.
    """
    if target in (None, STDIO):
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(target or "").resolve()
    try:
        # A device or a named pipe takes the bytes; a file must not replace it.
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as file:
                yield file
        else:
            with taking_place(path, 0o600 if secret else 0o666, over=over) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise InputError(f"cannot write {target}: {problem.strerror}") from problem


def regular(file: BinaryIO) -> os.stat_result | None:
    """Returns what the system knows of an open file; None for a pipe, a device or a terminal."""
    try:
        found = os.fstat(file.fileno())
    except (OSError, AttributeError):  # a test's stdin has no descriptor
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def is_same(read: BinaryIO, target: str | None) -> bool:
    """Returns whether a file that is read is the one to write.

    Args:
        read: The file that is read.
        target: A path, or `-` or None for stdout.
    """
    source = regular(read)
    if target in (None, STDIO):
        there = regular(sys.stdout.buffer)
    else:
        try:
            there = Path(target or "").stat()
        except OSError:  # opening it will say what is wrong
            there = None
    return source is not None and there is not None and os.path.samestat(source, there)


def size_of(file: BinaryIO) -> int | None:
    """Returns the bytes of an open file; None if only its end will tell."""
    found = regular(file)
    return None if found is None else found.st_size


def note(text: str) -> None:
    """Prints a remark on stderr if it is a terminal, because a script has no use for it."""
    if sys.stderr.isatty():
        typer.echo(text, err=True)


def _place(source: str | None) -> str:
    return "stdin" if source in (None, STDIO) else str(source)
