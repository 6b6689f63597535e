"""Files that appear in their place in one step, complete, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL

_DESCRIPTORS: Final = Path("/proc/self/fd")


@contextmanager
def taking_place(path: Path, mode: int, *, over: bool) -> Iterator[BinaryIO]:
    """Opens a new file, which takes its place when the block ends.

    If the block fails or the process is killed, what was there is still there. Where the system
    has files without a name, a killed process leaves nothing behind, either.

    Args:
        path: The place.
        mode: The file's mode, before the umask.
        over: Whether it takes the place of a file that is there.

    Raises:
        FileExistsError: There is one, and the new file may not replace it.
        OSError: The file cannot be written.
    """
    beside = path.with_name(f".keyfold-{secrets.token_hex(8)}")
    unnamed = _unnamed(path.parent, mode)
    try:
        with os.fdopen(os.open(beside, _NEW, mode) if unnamed is None else unnamed, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if unnamed is not None:
                _name(unnamed, beside if over else path)
        if over:
            beside.replace(path)
        elif unnamed is None:
            _move(beside, path)
        sync_folder(path)
    finally:
        beside.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Makes sure that a file's name survives a crash of the machine."""
    if sys.platform == "win32":
        return
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unnamed(folder: Path, mode: int) -> int | None:
    """Opens a file without a name; None where the system or the folder's disk has no such files."""
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag or not _DESCRIPTORS.exists():
        return None
    try:
        return os.open(folder, flag | os.O_WRONLY, mode)
    except OSError:  # opening one with a name will say if the folder is what is wrong
        return None


def _name(descriptor: int, path: Path) -> None:
    """Gives an unnamed file its name, which must be free."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # The folder only makes Python take the system's call that follows the link of /proc.
        os.link(_DESCRIPTORS / str(descriptor), path, src_dir_fd=folder)
    finally:
        os.close(folder)


def _move(beside: Path, path: Path) -> None:
    """Gives a file another name, which must be free."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links: a file that comes at this moment is replaced
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        beside.replace(path)
