"""One process per SQLite file (protocol S9).

Two processes would each serve from a cache that the other one's revocations never reach in time,
and neither would know. The lock is the kernel's, so that it ends with its process however that
dies, and a file of its own, since closing any descriptor of the database would drop SQLite's.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

from keyfold_server.domain.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path


_RELEASED: Final = -1


class FileLock:
    """An exclusive lock, held until released or until the process ends."""

    def __init__(self, store: Path) -> None:
        """Takes the lock of a store's file.

        Raises:
            SetupError: Another process holds it, or it cannot be made.
        """
        path = store.with_name(f"{store.name}.lock")
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
                "other one, or give this one a store of its own"
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise SetupError(f"the lock {path} cannot be taken: {error.strerror}") from None

    def release(self) -> None:
        """Lets another process have the store. The file stays: removing it would race."""
        descriptor, self._descriptor = self._descriptor, _RELEASED
        # Closed once only: the number may be another file's by the second time.
        if descriptor != _RELEASED:
            os.close(descriptor)
