"""The service key: the secret that seals the store's rows, and that the store does not hold.

Whoever can write the store but lacks this key can break rows, and cannot forge one (protocol A1).
Keyfold makes a key only for a new store. A new key for an existing store would match no row, and an
operator who lost the key must hear that, instead of finding every row refused.
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


def load(path: Path, *, store: Path | str, new: bool) -> ServiceKey:
    """Reads the service key from its file; for a new store, makes the file first.

    The caller never asks for a new key for a shared store, because each replica would make its own.

    Args:
        path: The key's file.
        store: The file of an embedded store, or the name of a shared one, for messages.
        new: True if the store does not exist yet. A key file that exists is used even then, because
            a process may have died after it made the key and before it made the store.

    Raises:
        SetupError: The file is missing, unreadable, open to others, or of the wrong length.
    """
    if new and not path.exists():
        _make(path)
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
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
        raise SetupError(f"the service key {path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise SetupError(
            f"the service key {path} has mode {mode:04o}, so others may have read it: "
            f"chmod 600 {path}"
        )
    if len(key) != SIZE:
        raise SetupError(
            f"the service key {path} does not have {SIZE} bytes: put your copy of the key there; "
            "if the store does not exist yet, remove the file"
        )
    return ServiceKey(key)


def _make(path: Path) -> None:
    """Makes the key's file, which is on the disk before any part of the store is."""
    try:
        # Never over a key that somebody puts there in the meantime.
        with atomic_write(path) as file:
            file.write(secrets.token_bytes(SIZE))
    except OSError as error:
        raise SetupError(f"the service key {path} cannot be made: {error.strerror}") from None
