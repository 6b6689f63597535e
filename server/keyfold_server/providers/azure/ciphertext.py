"""What is stored of a key that Azure wrapped.

    lp(kid) ‖ lp(iv) ‖ lp(tag) ‖ ciphertext          lp = u16 length, big-endian, then bytes

    kid    the identifier of the key's version, in canonical form
    iv     12 bytes, and tag 16, under A256GCM with the binding's canonical bytes as AAD
           both empty under RSA-OAEP-256, which binds nothing

Invariant: what is read has exactly this form; anything else is no stored key. It must not know
who opens it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_LENGTH: Final = struct.Struct(">H")
_SIZES: Final = ((0, 0), (12, 16))
"""Of iv and tag: without and with GCM."""

_MOST: Final = 8_192
"""Bytes; an RSA key of 4,096 bits gives 512 beside its identifier."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A wrapped key in parts.

    Attributes:
        kid: The identifier of the version that wrapped it.
        iv: The nonce, empty under RSA.
        tag: The authentication tag, empty under RSA.
        ciphertext: The rest.
    """

    kid: str
    iv: bytes
    tag: bytes
    ciphertext: bytes

    @property
    def bound(self) -> bool:
        """Whether the service binds the context."""
        return bool(self.iv)

    def encoded(self) -> bytes:
        """Returns what is stored."""
        parts = (self.kid.encode("ascii"), self.iv, self.tag)
        return b"".join(_LENGTH.pack(len(part)) + part for part in parts) + self.ciphertext

    @staticmethod
    def parsed(stored: bytes) -> Sealed | None:
        """Reads what is stored; None where that is no key that Azure wrapped."""
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
