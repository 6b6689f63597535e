"""Tokens: what a caller gets in one answer and passes back unchanged with its next request.

A token is bytes and a MAC under the service key, so every replica takes the tokens of the others,
and nobody can make one.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from typing import Final

_MAC_SIZE: Final = 16

Mac = Callable[[str, bytes], bytes]
"""Returns the MAC under the service key for a purpose, as `ports.Store.mac` does."""


def sealed(mac: Mac, purpose: str, data: bytes) -> str:
    """Returns the token of some bytes.

    Args:
        mac: Makes MACs under the service key.
        purpose: What the token is for. It is worth nothing for another purpose.
        data: The bytes.
    """
    return urlsafe_b64encode(data + mac(purpose, data)[:_MAC_SIZE]).decode()


def opened(mac: Mac, purpose: str, token: str) -> bytes | None:
    """Returns the bytes of a token, or None if it is not one that Keyfold made for the purpose."""
    try:
        raw = b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (ValueError, Base64Error):
        return None
    data, made = raw[:-_MAC_SIZE], raw[-_MAC_SIZE:]
    return data if hmac.compare_digest(made, mac(purpose, data)[:_MAC_SIZE]) else None
