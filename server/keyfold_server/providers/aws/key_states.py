"""What the state of a key, or of its external key, means.

AWS answers KMSInvalidStateException both for the state of a key and for all that goes wrong between
AWS and a customer's external key store (XKS). Only the text tells them apart. The texts are those
of the Developer Guide:

https://docs.aws.amazon.com/kms/latest/developerguide/xks-troubleshooting.html

Invariant: what the customer's key manager says about the key is a refusal. Where AWS cannot reach
or understand the customer's proxy, nothing is known about the key.
"""

from __future__ import annotations

import re
from typing import Final

from keyfold_server.domain.errors import (
    AccessDeniedError,
    KekMismatchError,
    KeyDisabledError,
    KeyInvalidError,
    KeyNotFoundError,
    KeyPendingDeletionError,
    KmsError,
    ThrottledError,
)

Meaning = tuple[type[KmsError], str]
"""The error, and what its message says of the root key."""

MISMATCH: Final[Meaning] = (
    KekMismatchError,
    "does not open the stored key with this context: it was changed, or wrapped for another",
)

_EXTERNAL: Final[tuple[tuple[str, Meaning], ...]] = (
    ("couldnotfindtheexternalkey", (KeyNotFoundError, "has an external key that does not exist")),
    (
        "externalkeyisnotenabled",
        (KeyDisabledError, "has an external key that is disabled; enable it in its key manager"),
    ),
    (
        "externalkeyisdisabled",
        (KeyDisabledError, "has an external key that is disabled; enable it in its key manager"),
    ),
    (
        "externalkeystoreproxydeniedaccess",
        (AccessDeniedError, "is denied to Keyfold by its external key store; allow its use there"),
    ),
    (
        "externalkeydoesnotsupporttherequestedoperation",
        (KeyInvalidError, "has an external key that does not encrypt and decrypt"),
    ),
    ("ciphertextoradditionalauthenticateddata", MISMATCH),
    ("externalkeystoreproxysubmittedfordecryption", MISMATCH),
    ("veryhighrequestrate", (ThrottledError, "is called too fast for its external key store")),
)
"""Words about external keys, in lower case, with nothing but letters."""


def of_text(text: str) -> Meaning | None:
    """Returns what the text of a KMSInvalidStateException means, or None if nothing certain."""
    letters = re.sub(r"[^a-z]", "", text.lower())
    for words, meaning in _EXTERNAL:
        if words in letters:
            return meaning
    return _of_letters(letters)


def of_state(state: str) -> Meaning | None:
    """Returns what a key's state means, such as `PendingDeletion`, or None if it may be used."""
    letters = state.lower()
    return (KeyDisabledError, _DISABLED) if letters == "disabled" else _of_letters(letters)


_DISABLED: Final = "is disabled; enable it in AWS KMS"


def _of_letters(letters: str) -> Meaning | None:
    if "pendingdeletion" in letters or "pendingreplicadeletion" in letters:
        return KeyPendingDeletionError, "is scheduled for deletion"
    if "pendingimport" in letters:
        return (
            KeyInvalidError,
            "has no key material: the imported material was deleted or has expired",
        )
    if "isdisabled" in letters:
        return KeyDisabledError, _DISABLED
    # Unavailable, Creating and Updating end by themselves; the customer did not choose them.
    return None
