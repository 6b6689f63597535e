"""Files that the client reads: what is said of one that it cannot."""

from __future__ import annotations

import os

from keyfold.errors import FileUnreadableError


def unreadable(path: str | os.PathLike[str], error: OSError) -> FileUnreadableError:
    """Returns the error about a file that cannot be read."""
    why = error.strerror or type(error).__name__
    return FileUnreadableError(f"cannot read {os.fspath(path)}: {why}", code="INVALID_ARGUMENT")
