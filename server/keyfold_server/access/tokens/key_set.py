"""The public keys with which an issuer signs its tokens: a JSON Web Key Set, read with suspicion.

Invariant: a key is kept only for the algorithms that its own type, curve and declarations allow, so
no token's header can choose how Keyfold uses a key. Symmetric and private keys are never accepted.
The module knows neither where the set came from nor what a token is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from jwt import PyJWK
from jwt.exceptions import PyJWTError

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "EdDSA",
)
"""The algorithms of signatures that Keyfold accepts. All are asymmetric: with a shared secret
whoever verifies can also sign, and an attacker could pass a public key off as the secret."""

_BY_CURVE: Final = {"P-256": ("ES256",), "P-384": ("ES384",), "Ed25519": ("EdDSA",)}
_RSA: Final = tuple(name for name in ALGORITHMS if name[:2] in {"RS", "PS"})
_KEY_TYPES: Final = {"RSA", "EC", "OKP"}

_MIN_RSA: Final = 2_048
_MAX_RSA: Final = 8_192
"""Bits of an RSA modulus. Signatures of smaller keys can be forged; larger keys cost milliseconds
per call."""

_MAX_EXPONENT: Final = 2**32

MAX_SIZE: Final = 256 * 1024
"""Bytes of a key set. The sets of real issuers have a few thousand."""

_MOST_KEYS: Final = 100


class KeySetError(Exception):
    """The text is not a usable key set. The message says why, and contains nothing of the text."""


class KeySet:
    """An issuer's keys, each under its id and an algorithm that it may be used with."""

    def __init__(self, keys: Mapping[tuple[str, str], PyJWK], skipped: int) -> None:
        """Takes the keys, and the number of keys of the set that are not usable."""
        self._keys = dict(keys)
        self._ids = frozenset(key_id for key_id, _ in keys)
        self.skipped: Final = skipped

    def __contains__(self, key_id: str) -> bool:
        """Says whether the set has a key with this id."""
        return key_id in self._ids

    def get(self, key_id: str, algorithm: str) -> PyJWK | None:
        """Returns the key with this id if it may be used with this algorithm, else None."""
        return self._keys.get((key_id, algorithm))

    def __len__(self) -> int:
        return len(self._ids)


def parse(text: bytes) -> KeySet:
    """Reads a key set; leaves out keys that cannot verify tokens.

    Args:
        text: The JSON of RFC 7517, at most 256 KiB.

    Raises:
        KeySetError: The text is not a key set, or no key in it is usable.
    """
    if len(text) > MAX_SIZE:
        raise KeySetError(f"it is larger than {MAX_SIZE // 1024} KiB")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise KeySetError("it is not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise KeySetError('it is not a key set: it has no list "keys"')
    if len(listed) > _MOST_KEYS:
        raise KeySetError(f"it has more than {_MOST_KEYS} keys")
    keys: dict[tuple[str, str], PyJWK] = {}
    skipped = 0
    for jwk in listed:
        usable = _usable(jwk) if isinstance(jwk, dict) else {}
        skipped += not usable
        for name, key in usable.items():
            # Of two keys with one id the first counts; the token must not choose between them.
            keys.setdefault((jwk["kid"], name), key)
    if not keys:
        raise KeySetError(
            "none of its keys can verify tokens; Keyfold needs RSA keys of 2,048 to 8,192 bits, or "
            "P-256, P-384 or Ed25519 keys, with a kid, for signatures"
        )
    return KeySet(keys, skipped)


def _usable(jwk: dict[str, Any]) -> dict[str, PyJWK]:
    """Returns a key under each algorithm that it may be used with; empty if it is not usable."""
    key_id, operations = jwk.get("kid"), jwk.get("key_ops")
    if not isinstance(key_id, str) or not key_id or jwk.get("kty") not in _KEY_TYPES:
        return {}
    # A private key that the issuer published is not secret, so it proves nothing.
    if "d" in jwk or jwk.get("use", "sig") != "sig":
        return {}
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return {}
    fitting = _RSA if jwk["kty"] == "RSA" else _BY_CURVE.get(str(jwk.get("crv")), ())
    declared = jwk.get("alg")
    if declared is not None:
        fitting = (declared,) if declared in fitting else ()
    try:
        made = {name: PyJWK(jwk, name) for name in fitting}
    # PyJWT does not check the members first, and strange ones fail in strange ways.
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return {}
    return {name: key for name, key in made.items() if _is_strong(key.key)}


def _is_strong(key: object) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        exponent = key.public_numbers().e
        return _MIN_RSA <= key.key_size <= _MAX_RSA and exponent < _MAX_EXPONENT
    # The other keys are as strong as their curve; `cryptography` accepts only points on the curve.
    return True
