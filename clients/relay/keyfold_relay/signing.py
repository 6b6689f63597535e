"""Signs and verifies as Standard Webhooks prescribes (its specification, version 1).

A request has the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`. A signature is
`v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`; while a secret is rotated the header
has one by each secret, separated by a space. A secret is `whsec_` and the base64 of 24 to 64 bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"

TOLERANCE: Final = 300
"""Seconds by which a receiver lets a timestamp differ from its own clock."""

_PREFIX: Final = "whsec_"
_VERSION: Final = "v1,"
_LEAST, _MOST = 24, 64


class BadSecretError(ValueError):
    """A text is not a secret; the message does not repeat it."""


class NotSignedError(Exception):
    """A request does not carry a signature that holds; the message says why."""


def key_of(secret: str) -> bytes:
    """Returns the bytes of a secret.

    Raises:
        BadSecretError: It is not a secret of Standard Webhooks.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(_PREFIX) or not _LEAST <= len(key) <= _MOST:
        raise BadSecretError(
            f"it is not a secret of Standard Webhooks: {_PREFIX} and the base64 of {_LEAST} to "
            f"{_MOST} bytes; `echo {_PREFIX}$(openssl rand -base64 32)` makes one"
        )
    return key


def signed(keys: Iterable[bytes], identity: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Returns the three headers of a request.

    Args:
        keys: The secrets' bytes, each of which signs.
        identity: The id of the message, the same for every attempt to send it.
        timestamp: The time of the attempt, in Unix seconds.
        body: The body.
    """
    signatures = (_signature(key, identity, str(timestamp), body) for key in keys)
    return {ID: identity, TIMESTAMP: str(timestamp), SIGNATURE: " ".join(signatures)}


def verify(keys: Iterable[bytes], headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Checks the signature of a request that arrived.

    Args:
        keys: The secrets' bytes, one of which must have signed.
        headers: The request's headers, looked up in lower case.
        body: The body, exactly as it arrived.
        now: Unix seconds.

    Raises:
        NotSignedError: A header is missing, no signature holds, or the timestamp is too far off.
    """
    identity, timestamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
    given = headers.get(SIGNATURE, "")
    if not identity or not given or not timestamp.isascii() or not timestamp.isdecimal():
        raise NotSignedError(f"{ID}, {TIMESTAMP} or {SIGNATURE} is missing or malformed")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise NotSignedError(f"{TIMESTAMP} differs from this clock by more than {TOLERANCE} s")
    known = [_signature(key, identity, timestamp, body) for key in keys]
    for one in given.split(" "):
        if any(hmac.compare_digest(one.encode(), each.encode()) for each in known):
            return
    raise NotSignedError("no signature was made with a known secret")


def _signature(key: bytes, identity: str, timestamp: str, body: bytes) -> str:
    content = b"%b.%b.%b" % (identity.encode(), timestamp.encode(), body)
    digest = hmac.digest(key, content, hashlib.sha256)
    return _VERSION + base64.b64encode(digest).decode()
