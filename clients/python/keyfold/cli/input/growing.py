"""Files that a command makes longer, and that a later run of it continues."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO

from keyfold.cli.errors import InputError

if sys.platform != "win32":
    import fcntl


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Reports that a file cannot be written, as when the disk is full.

    Raises:
        InputError: The block could not write it.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise InputError(f"cannot write {name}: {problem.strerror}") from problem


def lock(file: FileIO, name: str) -> None:
    """Makes sure that no other command writes the file, until this one ends in whatever way.

    Raises:
        InputError: Another command does.
    """
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another command is writing {name}; wait for its end") from None


def write_all(file: FileIO, data: bytes) -> None:
    """Writes all of the data, of which one call of the system may write a part.

    Raises:
        OSError: The system does not take it.
    """
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
