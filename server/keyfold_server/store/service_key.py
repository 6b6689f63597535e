"""The service key: the secret that the store does not hold, and that seals its rows.

Whoever writes the store without it can break rows, and cannot make one (protocol A1). So
a key is made for a new store alone: a key made for a store that exists would bless nothing, and
an operator who lost the old one must hear so instead of finding every row refused.
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
            SetupError: They are not 32.
        """
        if len(key) != SIZE:
            raise SetupError(f"a service key has {SIZE} bytes, and this one has {len(key)}")
        self._key = key
        self.service_key_id: Final = self.mac(_ID_LABEL)[:_ID_SIZE].hex()

    def mac(self, message: bytes) -> bytes:
        """Returns HMAC-SHA256 over a message that begins with a label of its own."""
        return hmac.digest(self._key, message, "sha256")

    def __repr__(self) -> str:
        """Shows which key it is."""
        return f"ServiceKey(service_key_id={self.service_key_id!r})"


def load(path: Path, *, store: Path | str, new: bool) -> ServiceKey:
    """Reads the service key from its file, and makes the file first where the store is new.

    A shared store's is never made here: each replica would make its own.

    Args:
        path: The key's file.
        store: The file of an embedded store, or a shared store's name, for messages.
        new: Whether there is no store yet. A key that is there already is then taken: the
            process may have died between making the key and making the store.

    Raises:
        SetupError: The file is missing, unreadable, open to others or of another length.
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
                f"the service key {path} is missing: put the file there that the store {store} "
                "was sealed with, the same for every replica; for a new store make one with "
                f"`(umask 077 && head -c {SIZE} /dev/urandom > {path})`"
            ) from None
        raise SetupError(
            f"the service key {path} is missing, and the store {store} was sealed with one: put "
            "the file back from where it was saved; only if the store shall begin anew, move "
            "its file away, too"
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
            f"the service key {path} does not have {SIZE} bytes: put the file back from where "
            "it was saved; if there is no store yet, remove it"
        )
    return ServiceKey(key)


def _make(path: Path) -> None:
    """Makes the key's file, which is on the disk before anything of the store is."""
    try:
        # Never over a key that somebody puts there in the meantime.
        with atomic_write(path) as file:
            file.write(secrets.token_bytes(SIZE))
    except OSError as error:
        raise SetupError(f"the service key {path} cannot be made: {error.strerror}") from None
