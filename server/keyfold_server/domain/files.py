"""Stamps of files: what tells that a file which is read again and again has not changed.

Looking at a file's times costs microseconds and reading it more. Knows nothing of what is in it.
"""

from __future__ import annotations

import os
import time
from typing import Final

Stamp = tuple[int, ...]
"""What tells one state of a file from another: device, inode, size and times."""

_SETTLED_NS: Final = 2_000_000_000
"""Age from which a stamp tells a file's contents.

Times in a stamp are as coarse as the file system makes them, up to 2 s, and an inode's number is
used again: two changes within that time can leave the same stamp.
"""


def stamp_of(status: os.stat_result) -> Stamp:
    """Returns a file's stamp, whatever its age."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        # A changed mode shows in this one alone.
        status.st_ctime_ns,
    )


def settled(status: os.stat_result) -> Stamp | None:
    """Returns a file's stamp, or None while the file is too young for a stamp to tell."""
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    return stamp_of(status) if time.time_ns() - changed > _SETTLED_NS else None
