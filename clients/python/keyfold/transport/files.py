"""Files that the client reads, and other programs replace."""

from __future__ import annotations

import os
from typing import TypeAlias

from keyfold.errors import FileUnreadableError

Stamp: TypeAlias = tuple[int, ...]
"""What changes whenever somebody replaces a file or writes into it."""


def stamp(status: os.stat_result) -> Stamp:
    """Returns the stamp of a file."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def unreadable(path: str | os.PathLike[str], error: OSError) -> FileUnreadableError:
    """Returns the error about a file that cannot be read."""
    why = error.strerror or type(error).__name__
    return FileUnreadableError(f"cannot read {os.fspath(path)}: {why}", code="INVALID_ARGUMENT")
