"""Tokens: what a caller gets in one answer and passes back unchanged with its next request.

A token is encrypted under the service key, so every replica takes the tokens of the others, and
nobody can make or read one. It may stand for what its holder may not see, such as the place between
two pages (protocol C7). The cipher is AES-SIV, which needs no nonce.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

_KEY: Final = b"token"
"""What the service key is applied to for a purpose's key."""

Mac = Callable[[str, bytes], bytes]
"""Returns the MAC under the service key for a purpose, as `ports.Store.mac` does."""


def sealed(mac: Mac, purpose: str, data: bytes) -> str:
    """Returns the token of some bytes.

    Args:
        mac: Makes MACs under the service key.
        purpose: What the token is for. It is worth nothing for another purpose.
        data: The bytes, at least one.
    """
    return urlsafe_b64encode(AESSIV(mac(purpose, _KEY)).encrypt(data, None)).decode()


def opened(mac: Mac, purpose: str, token: str) -> bytes | None:
    """Returns the bytes of a token, or None if it is not one that Keyfold made for the purpose."""
    try:
        raw = b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        return AESSIV(mac(purpose, _KEY)).decrypt(raw, None)
    except (ValueError, Base64Error, InvalidTag):
        return None
