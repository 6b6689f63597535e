"""A file with its wrapped key moved, in its old place.

The new file is written beside the old one and takes its place in one step, so that at any moment
one of them is there, whole. Only the header differs, and the system copies the rest: on disks that
can share blocks among files (Btrfs, XFS, bcachefs) it copies nothing.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Final

from keyfold.cli.errors import InputError
from keyfold.cli.input.growing import lock, writing
from keyfold.cli.input.replacing import taking_place
from keyfold.cli.input.streams import open_input
from keyfold.cli.output.progress import Progress
from keyfold.envelope import Envelope

_PART: Final = 16 << 20
"""Bytes that the system copies at once."""

_CANNOT: Final = {
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EXDEV,
    errno.ETXTBSY,
}
"""Errors with which a system says that it cannot copy between these files."""


def rekey_file(envelope: Envelope, name: str) -> bool:
    """Moves the wrapped key of a file to the newest generation.

    Returns:
        Whether it was under an older one.

    Raises:
        InputError: The file cannot be read or replaced, or somebody changes it at this moment.
        KeyfoldError: Its key cannot be moved.
    """
    path = Path(name).resolve()
    with open_input(name) as source:
        file = source.raw  # type: ignore[attr-defined]
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise InputError(f"{name} is not a file; give - to rekey what comes from stdin")
        with writing(name):
            lock(file, name)
        header = envelope.rekey_header(source)
        size = source.tell()
        if header == os.pread(file.fileno(), size, 0):
            return False
        mode = stat.S_IMODE(before.st_mode)
        with (
            writing(name),
            Progress(name, size=before.st_size, file=name) as progress,
            taking_place(path, mode, over=True) as target,
        ):
            copied = _copy(file, size, target, header, progress)
            _keep(name, file, before, target)
            now = os.fstat(file.fileno())
            there = os.path.samestat(now, path.stat())
            if not there or copied != now.st_size or now.st_mtime_ns != before.st_mtime_ns:
                raise InputError(f"{name} was changed or replaced meanwhile; nothing was done")
    return True


def _copy(file: FileIO, size: int, target: BinaryIO, header: bytes, progress: Progress) -> int:
    """Copies a file whose header has so many bytes, with another header; returns its old size."""
    read, written = file.fileno(), target.fileno()
    # From the very beginning if that is possible, since only whole blocks can be shared.
    at, to = (0, 0) if len(header) == size else (size, len(header))
    while count := _copy_part(read, at, written, to):
        at, to = at + count, to + count
        progress.add(0, count)
    if os.pwrite(written, header, 0) < len(header):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return at


def _copy_part(read: int, at: int, written: int, to: int) -> int:
    """Copies a part of a file; returns its size, and 0 at the end."""
    if sys.platform == "linux":
        try:
            return os.copy_file_range(read, written, _PART, at, to)
        except OSError as problem:
            if problem.errno not in _CANNOT:
                raise
    return os.pwrite(written, os.pread(read, 1 << 20, at), to)


def _keep(name: str, file: FileIO, before: os.stat_result, target: BinaryIO) -> None:
    """Gives a new file the owner, the mode and the attributes of the old one.

    Not its time: a backup that goes by times would keep the old header, whose key may be retired.
    """
    new = target.fileno()
    made = os.fstat(new)
    if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.fchown(new, before.st_uid, before.st_gid)
        except PermissionError:
            raise InputError(
                f"{name} belongs to another user or group; run rekey as its owner"
            ) from None
    os.fchmod(new, stat.S_IMODE(before.st_mode))
    for attribute in _attributes(file):
        os.setxattr(new, attribute, os.getxattr(file.fileno(), attribute))


def _attributes(file: FileIO) -> list[str]:
    """Returns the names of a file's extended attributes, such as its access control list."""
    if sys.platform != "linux":
        return []
    try:
        found = os.listxattr(file.fileno())
    except OSError:  # a disk without them
        return []
    # The system gives each new file those of security itself.
    return [name for name in found if not name.startswith("security.")]
