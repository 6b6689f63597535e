"""Files: writing one whole or not at all, and noticing that one has not changed.

This module knows nothing of what a file holds.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Stamp = tuple[int, ...]
"""Device, inode, size and times of a file. They differ between two states of the file."""

_SETTLED_NS: Final = 2_000_000_000
"""Nanoseconds after which a stamp identifies a file's contents.

Some file systems round times to 2 s and use an inode's number again. So two changes within that
time can leave the same stamp.
"""

_DRAFT: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def atomic_write(
    path: Path, *, mode: int = 0o600, overwrite: bool = False, draft: Path | None = None
) -> Iterator[IO[bytes]]:
    """Gives a file to write to; it appears under its name whole and on the disk, or not at all.

    The bytes go to a draft beside the file. The draft takes the file's name once its bytes are on
    the disk, and the call returns once the folder's entry is there too. If anything fails before,
    the draft is removed, and what stood under the name stays.

    Args:
        path: The file.
        mode: Permissions of the file, less the umask.
        overwrite: Replaces a file of that name. Otherwise a file that exists stays, even one that
            somebody makes in the meantime. A symbolic link is replaced and never followed.
        draft: The draft's path, for a caller whose lock keeps other writers out. A draft that a
            crash has left there is removed first. By default each draft has a random name.

    Raises:
        FileExistsError: The file exists, and `overwrite` is false.
        OSError: The file cannot be written.
    """
    if draft is None:
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    else:
        draft.unlink(missing_ok=True)
    descriptor = os.open(draft, _DRAFT, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            draft.replace(path)
        else:
            # Unlike a rename, a link never replaces a file.
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stamp_of(status: os.stat_result) -> Stamp:
    """Returns a file's stamp, whatever its age."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        # A changed mode shows in this time only.
        status.st_ctime_ns,
    )


def settled(status: os.stat_result) -> Stamp | None:
    """Returns a file's stamp, or None if the file changed too recently for a stamp to be sure."""
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    return stamp_of(status) if time.time_ns() - changed > _SETTLED_NS else None
