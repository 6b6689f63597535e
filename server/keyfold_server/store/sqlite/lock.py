"""A lock that gives an SQLite file to one process (protocol S9).

Each of two processes would serve from a memory that the other one's revocations never reach, and
neither would notice. The kernel holds the lock, so it ends with its process however that dies. The
lock has a file of its own, because closing any descriptor of the database drops SQLite's locks.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

from keyfold_server.domain.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path


_RELEASED: Final = -1


def _lock_of(store: Path) -> Path:
    return store.with_name(f"{store.name}.lock")


def is_locked(store: Path) -> bool:
    """Says whether a process holds the lock of a store's file; makes no file.

    Raises:
        SetupError: The lock's file is there and cannot be opened.
    """
    try:
        with _lock_of(store).open("r+b") as file:
            # A shared lock, for a moment, takes nothing from a server that holds the lock.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise SetupError(f"the lock {_lock_of(store)} cannot be made: {error.strerror}") from None
    return False


class FileLock:
    """An exclusive lock that this process holds until it releases the lock or ends."""

    def __init__(self, store: Path) -> None:
        """Takes the lock of a store's file.

        Raises:
            SetupError: Another process holds the lock, or its file cannot be made.
        """
        path = _lock_of(store)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SetupError(f"the lock {path} cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise SetupError(
                f"another server uses the store {store}: SQLite is for one process; stop the "
                "other server, or give this one another store"
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise SetupError(f"the lock {path} cannot be taken: {error.strerror}") from None

    def release(self) -> None:
        """Releases the lock. Its file stays, because removing the file would race with a lock."""
        descriptor, self._descriptor = self._descriptor, _RELEASED
        # A second close could hit another file, which has got the same number meanwhile.
        if descriptor != _RELEASED:
            os.close(descriptor)
