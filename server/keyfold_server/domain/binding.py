"""What a wrapped KEK is bound to, and the 65 bytes that a root key wraps.

The names and bytes here never change (protocol C5): customers' key policies contain them, and
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
"""Bytes that a root key wraps. RSA-OAEP-256 under a 2,048-bit key has room for them."""

_LABEL: Final = b"CMK1-KEK"
_VERSION: Final = b"\x01"


def _prefixed(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


@dataclass(frozen=True, slots=True)
class Binding:
    """The cluster, region and generation for which a KEK was wrapped.

    Attributes:
        cluster: The cluster's name.
        region: The region's name.
        kek_id: The 16 random bytes that identify the generation.
        organization: The organization's name, or None.
    """

    cluster: str
    region: str
    kek_id: bytes
    organization: str | None = None

    def canonical(self) -> bytes:
        """Returns the bytes that are bound: the digest's input, and the AAD where one is used."""
        parts = [self.cluster.encode(), self.region.encode(), self.kek_id]
        if self.organization is not None:
            parts.append(self.organization.encode())
        return _LABEL + b"".join(_prefixed(part) for part in parts)

    def as_map(self) -> dict[str, str]:
        """Returns the binding as a map, for providers that bind maps and log them.

        Empty names are left out: TestKey without a cluster binds nothing.
        """
        bound = {
            "keyfold:cluster": self.cluster,
            "keyfold:region": self.region,
            "keyfold:organization": self.organization,
        }
        return {name: value for name, value in bound.items() if value}

    def payload(self, key: bytes | bytearray) -> bytearray:
        """Returns the 65 bytes that the root key wraps: version, digest of the binding, key.

        The digest binds the context even where the provider cannot, as with Azure's RSA keys.
        """
        return bytearray(_VERSION + hashlib.sha256(self.canonical()).digest()) + key

    def open_payload(self, payload: bytearray) -> bytearray:
        """Returns the KEK from an unwrapped payload, and wipes the payload.

        Raises:
            KekMismatchError: The payload is malformed, or was wrapped for another binding.
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
            "the root key opened the stored key to something other than what was wrapped",
            cluster=self.cluster,
            region=self.region,
        )


def wipe(buffer: bytearray) -> None:
    """Overwrites a buffer in place. It cannot reach copies that a library made."""
    buffer[:] = bytes(len(buffer))
