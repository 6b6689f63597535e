"""The ways in which keys of vaults and Managed HSMs wrap: one by RSA, one by AES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keyfold_server.providers.azure.uri import KeyUri


@dataclass(frozen=True, slots=True)
class Way:
    """One of the ways in which keys wrap.

    Attributes:
        algorithm: Azure's name of the algorithm.
        wrap: The operation that wraps, as paths name it.
        unwrap: The operation that unwraps.
        key_ops: The operations that the key must permit.
        kinds: The types of keys that can wrap in this way.
        detail: A few words for people.
    """

    algorithm: str
    wrap: str
    unwrap: str
    key_ops: frozenset[str]
    kinds: frozenset[str]
    detail: str


RSA: Final = Way(
    "RSA-OAEP-256",
    "wrapkey",
    "unwrapkey",
    frozenset({"wrapKey", "unwrapKey"}),
    frozenset({"RSA", "RSA-HSM"}),
    "which binds no context",
)
AES: Final = Way(
    "A256GCM",
    "encrypt",
    "decrypt",
    frozenset({"encrypt", "decrypt"}),
    frozenset({"oct-HSM"}),
    "which binds the context",
)


def ways(uri: KeyUri) -> tuple[Way, ...]:
    """Returns the ways in which a key may be able to wrap, the better one first."""
    return (AES, RSA) if uri.place.hsm else (RSA,)
