"""Where bytes come from and go to: files, pipes, a prompt; never arguments.

Arguments stand in the shell's history and in everybody's list of processes.
"""

from __future__ import annotations

import getpass
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import typer

from keyfold.cli.failures import InputError
from keyfold.cli.values import from_base64, to_base64

STDIO: Final = "-"

_MAX_INPUT: Final = 64 * 1024
"""Bytes of a key's file, far above the 4,096 of a key and its base64."""

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def read_key(source: str | None, name: str, *, is_base64: bool) -> bytes:
    """Reads a key from a file, from stdin, or on a terminal from a prompt without echo.

    Args:
        source: A path, or `-` or None for stdin.
        name: What is asked for at a prompt, which takes base64.
        is_base64: The file or pipe holds base64.

    Raises:
        InputError: It cannot be read, is far too large, or is not base64.
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
    """Reads a wrapped key as it is or in base64.

    The two cannot be mixed up: a wrapped key begins with its version, no character of base64.

    Raises:
        InputError: It cannot be read, or is far too large.
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
    """Writes a key: raw, or as a line of base64 to a terminal or where it is asked for.

    Args:
        data: The key.
        target: A path, or `-` or None for stdout.
        as_base64: Write base64 in any case.
        secret: Nobody else may read the file.

    Raises:
        InputError: It cannot be written.
    """
    to_terminal = target in (None, STDIO) and sys.stdout.isatty()
    text = as_base64 or to_terminal
    with open_output(target, secret=secret) as file:
        file.write(to_base64(data).encode() + b"\n" if text else data)


@contextmanager
def open_input(source: str | None) -> Iterator[BinaryIO]:
    """Opens a file, or stdin for `-` and None.

    Raises:
        InputError: It cannot be read.
    """
    if source in (None, STDIO):
        yield sys.stdin.buffer
        return
    try:
        with Path(source or "").open("rb") as file:
            yield file
    except OSError as problem:
        raise InputError(f"cannot read {source}: {problem.strerror}") from problem


@contextmanager
def open_output(target: str | None, *, secret: bool) -> Iterator[BinaryIO]:
    """Opens a file, or stdout for `-` and None.

    A file appears whole or not at all, and with a new file's permissions: a key that is written
    over must not be lost half way, and a secret not end up in a file that others can read.

    Args:
        target: The path.
        secret: Nobody else may read the file.

    Raises:
        InputError: It cannot be written.
    """
    if target in (None, STDIO):
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(target or "").resolve()
    try:
        # A device or a pipe is written into, never replaced by a file.
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as file:
                yield file
        else:
            with _replacing(path, 0o600 if secret else 0o666) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise InputError(f"cannot write {target}: {problem.strerror}") from problem


@contextmanager
def _replacing(path: Path, mode: int) -> Iterator[BinaryIO]:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(beside, _NEW, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def note(text: str) -> None:
    """Tells a person at a terminal something that no script needs."""
    if sys.stderr.isatty():
        typer.echo(text, err=True)


def _place(source: str | None) -> str:
    return "stdin" if source in (None, STDIO) else str(source)
