"""What a wrapped KEK is bound to, and the 65 bytes that a root key wraps.

The names and bytes here are for ever (protocol C5): they stand in customers' key policies, and
every stored KEK was wrapped with them.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.errors import KekMismatchError

KEY_SIZE: Final = 32
"""Bytes of a KEK."""

PAYLOAD_SIZE: Final = 1 + hashlib.sha256().digest_size + KEY_SIZE
"""Bytes that a root key wraps: small enough for RSA-OAEP-256 under a 2,048-bit key."""

_LABEL: Final = b"CMK1-KEK"
_VERSION: Final = b"\x01"


def _prefixed(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


@dataclass(frozen=True, slots=True)
class Binding:
    """Says for which cluster, region and generation a KEK was wrapped.

    Attributes:
        cluster: Name of the cluster.
        region: Name of the region.
        kek_id: The 16 random bytes that name the generation.
        organization: Name of the organization, or None.
    """

    cluster: str
    region: str
    kek_id: bytes
    organization: str | None = None

    def canonical(self) -> bytes:
        """Returns the bytes bound to the ciphertext: the digest's input, and AAD where there is."""
        parts = [self.cluster.encode(), self.region.encode(), self.kek_id]
        if self.organization is not None:
            parts.append(self.organization.encode())
        return _LABEL + b"".join(_prefixed(part) for part in parts)

    def as_map(self) -> dict[str, str]:
        """Returns the same as a map, for providers that bind one and show it in their logs.

        What has no name is left out: a trial of a key without a cluster binds nothing.
        """
        bound = {
            "keyfold:cluster": self.cluster,
            "keyfold:region": self.region,
            "keyfold:organization": self.organization,
        }
        return {name: value for name, value in bound.items() if value}

    def payload(self, key: bytes | bytearray) -> bytearray:
        """Returns what the root key wraps: version, digest of the binding, key; 65 bytes.

        The digest binds the context even where the provider cannot (Azure's RSA keys).
        """
        return bytearray(_VERSION + hashlib.sha256(self.canonical()).digest()) + key

    def open_payload(self, payload: bytearray) -> bytearray:
        """Returns the KEK from an unwrapped payload, and wipes the payload.

        Raises:
            KekMismatchError: It is not a payload, or was wrapped for another binding.
        """
        expected = _VERSION + hashlib.sha256(self.canonical()).digest()
        good = len(payload) == PAYLOAD_SIZE and hmac.compare_digest(
            payload[: len(expected)], expected
        )
        key = payload[len(expected) :]
        wipe(payload)
        if good:
            return key
        wipe(key)
        raise KekMismatchError(
            "the root key opened the stored key to something else than was wrapped",
            cluster=self.cluster,
            region=self.region,
        )


def wipe(buffer: bytearray) -> None:
    """Overwrites a buffer in place; copies that a library made are beyond reach."""
    buffer[:] = bytes(len(buffer))
