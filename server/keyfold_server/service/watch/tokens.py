"""Resume tokens: the place of a reader, sealed, so that it means nothing outside of this store.

A token is encrypted with a key that is derived from the service key and the store's uid. So it
tells its holder nothing, such as how much happens to clusters that the holder may not see, and no
other store opens it. The cipher is AES-SIV, which needs no nonce: the same place under the same
request is always the same token.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from keyfold_server.domain.log import START, Position
from keyfold_server.domain.resuming import invalid_token

_FORM: Final = struct.Struct(">BQ16sQ16s16s8s")
_VERSION: Final = 1
_NO_ID: Final = bytes(16)
_LABEL: Final = b"keyfold resume token"

SCOPE_SIZE: Final = 16
"""Bytes of the digest of a request."""

RIGHTS_SIZE: Final = 8
"""Bytes of the digest of a caller's rights."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a reader has come.

    Attributes:
        events: The last entry of the log that it has passed.
        states: The last entry whose effects on clusters it has been told.
        scope: The digest of what it asked for.
        rights: The digest of what it might see.
    """

    events: Position
    states: Position
    scope: bytes
    rights: bytes


class ResumeTokens:
    """Seals places, and opens tokens."""

    def __init__(self, mac: Callable[[str, bytes], bytes], store_uid: bytes) -> None:
        """Takes what derives keys from the service key, and the store's uid."""
        halves = (mac("resume token", bytes((half,)) + store_uid) for half in (1, 2))
        self._cipher = AESSIV(b"".join(halves))

    def seal(self, place: Place) -> str:
        """Returns the token of a place."""
        plain = _FORM.pack(
            _VERSION,
            place.events.number,
            place.events.entry_id or _NO_ID,
            place.states.number,
            place.states.entry_id or _NO_ID,
            place.scope,
            place.rights,
        )
        return urlsafe_b64encode(self._cipher.encrypt(plain, [_LABEL])).decode().rstrip("=")

    def open(self, token: str) -> Place:
        """Returns the place in a token.

        Raises:
            ResumeTokenInvalidError: This store did not make the token.
        """
        try:
            sealed = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
            plain = self._cipher.decrypt(sealed, [_LABEL])
        except (ValueError, Base64Error, InvalidTag):
            plain = b""
        if len(plain) != _FORM.size or plain[0] != _VERSION:
            raise invalid_token("it is not one that this store gave out")
        _, number, entry_id, told, told_id, scope, rights = _FORM.unpack(plain)
        return Place(_position(number, entry_id), _position(told, told_id), scope, rights)


def _position(number: int, entry_id: bytes) -> Position:
    return Position(number, entry_id) if number else START
