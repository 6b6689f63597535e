"""The service key: the secret that seals the store's rows, and that the store does not hold.

Whoever can write the store but lacks this key can break rows, and cannot forge one (protocol A1).
Keyfold makes a key only together with a new store. A new key for an existing store would match no
row, and a new store under an existing key would hide that the old store is lost. An operator who
lost one of the two must hear that.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from typing import TYPE_CHECKING, Final

from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE: Final = 32
"""Bytes of a service key."""

_ID_LABEL: Final = b"keyfold service key id"
_ID_SIZE: Final = 8


class ServiceKey:
    """A service key in memory; it shows its id and never itself."""

    __slots__ = ("_key", "service_key_id")

    def __init__(self, key: bytes) -> None:
        """Takes 32 bytes.

        Raises:
            SetupError: The key has another size.
        """
        if len(key) != SIZE:
            raise SetupError(f"a service key has {SIZE} bytes, and this one has {len(key)}")
        self._key = key
        self.service_key_id: Final = self.mac(_ID_LABEL)[:_ID_SIZE].hex()

    def mac(self, message: bytes) -> bytes:
        """Returns HMAC-SHA256 over a message. Each kind of message begins with its own label."""
        return hmac.digest(self._key, message, "sha256")

    def __repr__(self) -> str:
        """Shows the key's id and not the key."""
        return f"ServiceKey(service_key_id={self.service_key_id!r})"


def is_unfinished(path: Path, store: Path) -> bool:
    """Says whether a process died while it made an embedded store and its key.

    Such a store is empty, and its key still has the name of a draft: nothing was sealed with it.

    Args:
        path: The key's file.
        store: The store's file, which exists.
    """
    return not path.exists() and _draft(path).exists() and store.stat().st_size == 0


def is_exposed(status: os.stat_result, user: int) -> bool:
    """Says whether others than this process may have read a key's file.

    A group may read a file of root's, if this process is not root: that is how Kubernetes gives a
    Secret, and systemd a credential, to a process of another user. PostgreSQL has the same rule for
    its private key. A file of any other user's is for its owner alone.

    Args:
        status: The file's owner and mode.
        user: The process's effective user id.
    """
    lent = status.st_uid == 0 and user != 0
    return bool(stat.S_IMODE(status.st_mode) & (0o037 if lent else 0o077))


def load(path: Path, *, store: Path | str) -> ServiceKey:
    """Reads the service key from its file.

    Args:
        path: The key's file.
        store: The file of an embedded store, or the name of a shared one, for messages.

    Raises:
        SetupError: The file is missing, unreadable, open to others, or of the wrong length.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(SIZE + 1)
    except FileNotFoundError:
        if isinstance(store, str):
            raise SetupError(
                f"the service key {path} is missing: put the file there that sealed the store "
                f"{store}, the same for every replica; for a new store make one with "
                f"`(umask 077 && head -c {SIZE} /dev/urandom > {path})`"
            ) from None
        raise SetupError(
            f"the service key {path} is missing, and it sealed the store {store}: put your copy "
            "of the key there; only to begin a new, empty store, move the store's file away too"
        ) from None
    except OSError as error:
        raise SetupError(f"cannot read the service key {path}: {error.strerror}") from None
    if is_exposed(status, os.geteuid()):
        raise SetupError(
            f"the service key {path} has mode {stat.S_IMODE(status.st_mode):04o}, so others may "
            f"have read it: chmod 600 {path}"
        )
    if len(key) != SIZE:
        raise SetupError(
            f"the service key {path} does not have {SIZE} bytes: put your copy of the key there; "
            "if the store does not exist yet, remove the file"
        )
    return ServiceKey(key)


def make(path: Path, store: Path, make_store: Callable[[], None]) -> None:
    """Makes the key of an embedded store that does not exist yet, or is unfinished.

    The key takes its name once the store's file exists and the key is on the disk. So a key
    without a store always means that the store is lost.

    Args:
        path: The key's file.
        store: The store's file. The caller holds its lock.
        make_store: Makes the store's file.

    Raises:
        SetupError: A file cannot be made.
    """
    try:
        # Never over a key that somebody puts there in the meantime.
        with atomic_write(path, draft=_draft(path)) as file:
            file.write(secrets.token_bytes(SIZE))
            if not store.exists():
                make_store()
    except OSError as error:
        raise SetupError(f"the service key {path} cannot be made: {error.strerror}") from None


def _draft(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
