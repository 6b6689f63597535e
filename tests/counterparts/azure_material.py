"""Key material of the Azure counterpart, and its cryptographic operations.

RSA wraps and encrypts with OAEP. AES keys of a Managed HSM wrap with A128KW to A256KW and encrypt
with A128GCM to A256GCM; the name must fit the key's size. wrapKey does not take GCM, and encrypt
does not take KW. Only the public part of material ever leaves this module.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from counterparts.azure_errors import AzureError

WRAPPING: Final = frozenset({"wrapKey", "unwrapKey"})
_GCM_IV: Final = 12
_GCM_TAG: Final = 16
_KW_LEAST: Final = 16


@dataclass(frozen=True)
class Sealed:
    """Input or output of an operation: a value, and for GCM its iv, tag and bound data."""

    value: bytes
    iv: bytes | None = None
    tag: bytes | None = None
    aad: bytes | None = None


class Material(ABC):
    """The secret part of one key version.

    Attributes:
        public: The public members of its JSON Web Key.
        key_ops: The operations that such a key permits unless its owner says otherwise.
        size: Bits.
    """

    public: dict[str, int]
    key_ops: tuple[str, ...]
    size: int

    @abstractmethod
    def algorithms(self, operation: str) -> tuple[str, ...]:
        """Returns the algorithms that an operation accepts."""

    @abstractmethod
    def seal(self, algorithm: str, given: Sealed) -> Sealed:
        """Wraps or encrypts; raises AzureError if it cannot."""

    @abstractmethod
    def open(self, algorithm: str, given: Sealed) -> Sealed:
        """Unwraps or decrypts; raises AzureError if the value is not authentic."""


class Rsa(Material):
    """An RSA key of 2048, 3072 or 4096 bits."""

    key_ops = ("encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey")

    def __init__(self, size: int) -> None:
        if size not in {2048, 3072, 4096}:
            raise bad_parameter(f"RSA keys have 2048, 3072 or 4096 bits, not {size}")
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=size)
        numbers = self._key.public_key().public_numbers()
        self.public = {"n": numbers.n, "e": numbers.e}
        self.size = size

    def algorithms(self, operation: str) -> tuple[str, ...]:
        return ("RSA-OAEP", "RSA-OAEP-256")

    def seal(self, algorithm: str, given: Sealed) -> Sealed:
        try:
            return Sealed(self._key.public_key().encrypt(given.value, _oaep(algorithm)))
        except ValueError:
            raise bad_parameter("the value is too long for the key") from None

    def open(self, algorithm: str, given: Sealed) -> Sealed:
        try:
            return Sealed(self._key.decrypt(given.value, _oaep(algorithm)))
        except ValueError:
            raise AzureError("OaepPadding") from None


class Aes(Material):
    """An AES key of 128, 192 or 256 bits."""

    key_ops = ("encrypt", "decrypt", "wrapKey", "unwrapKey")

    def __init__(self, size: int) -> None:
        if size not in {128, 192, 256}:
            raise bad_parameter(f"AES keys have 128, 192 or 256 bits, not {size}")
        self._key = os.urandom(size // 8)
        self.public = {}
        self.size = size

    def algorithms(self, operation: str) -> tuple[str, ...]:
        return (f"A{self.size}{'KW' if operation in WRAPPING else 'GCM'}",)

    def seal(self, algorithm: str, given: Sealed) -> Sealed:
        if algorithm.endswith("KW"):
            if len(given.value) < _KW_LEAST or len(given.value) % 8:
                raise bad_parameter("AES key wrap takes 16 bytes or more, in steps of 8")
            return Sealed(aes_key_wrap(self._key, given.value))
        iv = os.urandom(_GCM_IV) if given.iv is None else given.iv
        if len(iv) != _GCM_IV:
            raise bad_parameter("the iv of AES-GCM has 12 bytes")
        sealed = AESGCM(self._key).encrypt(iv, given.value, given.aad)
        return Sealed(sealed[:-_GCM_TAG], iv, sealed[-_GCM_TAG:], given.aad)

    def open(self, algorithm: str, given: Sealed) -> Sealed:
        try:
            if algorithm.endswith("KW"):
                return Sealed(aes_key_unwrap(self._key, given.value))
            if given.iv is None or len(given.iv) != _GCM_IV:
                raise bad_parameter("decrypting with AES-GCM takes the iv of 12 bytes")
            # A shorter tag would be weaker, so the whole tag is compared.
            if given.tag is None or len(given.tag) != _GCM_TAG:
                raise bad_parameter("decrypting with AES-GCM takes the tag of 16 bytes")
            value = AESGCM(self._key).decrypt(given.iv, given.value + given.tag, given.aad)
        except (InvalidTag, InvalidUnwrap):
            raise AzureError("NotAuthentic") from None
        return Sealed(value)


def material(kind: str, size: int | None) -> Material:
    """Makes a key of a JSON Web Key type (`RSA`, `RSA-HSM`, `oct-HSM`); its size has a default."""
    return Aes(size or 256) if kind == "oct-HSM" else Rsa(size or 2048)


def bad_parameter(message: str) -> AzureError:
    """Returns the error for a request that the service cannot read."""
    return AzureError("BadParameter", message=message)


def _oaep(algorithm: str) -> padding.OAEP:
    digest = hashes.SHA256() if algorithm == "RSA-OAEP-256" else hashes.SHA1()
    return padding.OAEP(mgf=padding.MGF1(digest), algorithm=digest, label=None)
