"""The stored form of a key that Azure wrapped.

    lp(kid) ‖ lp(iv) ‖ lp(tag) ‖ ciphertext          lp = u16 length, big-endian, then bytes

    kid    the identifier of the key's version, in canonical form
    iv     12 bytes, and tag 16, under A256GCM with the binding's canonical bytes as AAD
           both empty under RSA-OAEP-256, which binds no context

Invariant: only bytes of exactly this form are a stored key. This module must not know who opens
it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_LENGTH: Final = struct.Struct(">H")
_SIZES: Final = ((0, 0), (12, 16))
"""Sizes of iv and tag in bytes, without and with GCM."""

_MOST: Final = 8_192
"""Most bytes of a stored key. An RSA key of 4,096 bits makes 512 and the identifier."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """The parts of a stored key.

    Attributes:
        kid: The identifier of the version that wrapped it.
        iv: The nonce, empty under RSA.
        tag: The authentication tag, empty under RSA.
        ciphertext: The ciphertext without nonce and tag.
    """

    kid: str
    iv: bytes
    tag: bytes
    ciphertext: bytes

    @property
    def bound(self) -> bool:
        """Whether Azure binds the context."""
        return bool(self.iv)

    def encoded(self) -> bytes:
        """Returns the bytes to store."""
        parts = (self.kid.encode("ascii"), self.iv, self.tag)
        return b"".join(_LENGTH.pack(len(part)) + part for part in parts) + self.ciphertext

    @staticmethod
    def parsed(stored: bytes) -> Sealed | None:
        """Parses stored bytes; returns None if they are not a key that Azure wrapped."""
        parts, position = [], 0
        for _ in range(3):
            start = position + _LENGTH.size
            if start > len(stored):
                return None
            (length,) = _LENGTH.unpack_from(stored, position)
            position = start + length
            parts.append(bytes(stored[start:position]))
        kid, iv, tag = parts
        whole = position < len(stored) <= _MOST
        if not whole or not kid.isascii() or (len(iv), len(tag)) not in _SIZES:
            return None
        return Sealed(kid.decode("ascii"), iv, tag, bytes(stored[position:]))
