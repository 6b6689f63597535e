"""The keys of the Google Cloud counterpart: rings, keys, versions, their states, and the crypto.

This module knows no callers. Key material never leaves it, and is gone when a version is destroyed.
All methods are atomic: one lock covers the store. A caller that reads more of a key than one method
returns must hold the lock too.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud.kms_v1.types import resources

from counterparts.gcp_errors import Refusal

# The SDK makes its enums at run time, so a type checker cannot tell their members from numbers.
State: Any = resources.CryptoKeyVersion.CryptoKeyVersionState
Algorithm: Any = resources.CryptoKeyVersion.CryptoKeyVersionAlgorithm
Purpose: Any = resources.CryptoKey.CryptoKeyPurpose
Protection: Any = resources.ProtectionLevel

LOCATION = re.compile(r"projects/[a-z0-9.:-]{1,63}/locations/[a-z0-9-]{1,63}")
KEY_RING = re.compile(rf"{LOCATION.pattern}/keyRings/[a-zA-Z0-9_-]{{1,63}}")
KEY = re.compile(rf"{KEY_RING.pattern}/cryptoKeys/[a-zA-Z0-9_-]{{1,63}}")
VERSION_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
VERSION = re.compile(rf"{KEY.pattern}/cryptoKeyVersions/{VERSION_NUMBER.pattern}")
KEY_OR_VERSION = re.compile(rf"(?:{VERSION.pattern}|{KEY.pattern})")
IDENTIFIER = re.compile(r"[a-zA-Z0-9_-]{1,63}")

# The transitions of states that the API allows; `expire` happens by time.
MOVES = {
    "enable": ({State.ENABLED, State.DISABLED}, State.ENABLED),
    "disable": ({State.ENABLED, State.DISABLED}, State.DISABLED),
    "destroy": ({State.ENABLED, State.DISABLED}, State.DESTROY_SCHEDULED),
    "restore": ({State.DESTROY_SCHEDULED}, State.DISABLED),
    "expire": ({State.DESTROY_SCHEDULED}, State.DESTROYED),
}

# A ciphertext names its version by this and an opaque id, as those of the service do. With the
# nonce and the tag it is 80 bytes longer than the plaintext, as the service's were seen to be.
_MAGIC = b"\x0a\x24"
_ID = 50
_NONCE = 12
_TAG = 16
_HEADER = len(_MAGIC) + _ID


@dataclass
class Version:
    """One version of a key."""

    name: str
    algorithm: Any
    protection: Any
    state: Any = State.ENABLED
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    destroys: datetime | None = None
    destroyed: datetime | None = None
    identity: bytes = field(default_factory=lambda: os.urandom(_ID), repr=False)
    secret: bytes = field(default_factory=lambda: os.urandom(32), repr=False)

    def message(self) -> resources.CryptoKeyVersion:
        """Returns the version as the API shows it."""
        return resources.CryptoKeyVersion(
            name=self.name,
            state=self.state,
            protection_level=self.protection,
            algorithm=self.algorithm,
            create_time=self.created,
            generate_time=self.created,
            destroy_time=self.destroys,
            destroy_event_time=self.destroyed,
        )

    def usable(self) -> None:
        """Raises Refusal unless the version is enabled."""
        if self.state is not State.ENABLED:
            raise Refusal("version_not_enabled", version=self.name, state=self.state.name)


@dataclass
class Key:
    """A key and its versions, by number."""

    name: str
    purpose: Any
    algorithm: Any
    protection: Any
    destroy_after: timedelta
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    versions: dict[int, Version] = field(default_factory=dict)
    primary: Version | None = None

    def message(self) -> resources.CryptoKey:
        """Returns the key as the API shows it; only symmetric keys have a primary version."""
        return resources.CryptoKey(
            name=self.name,
            purpose=self.purpose,
            create_time=self.created,
            primary=self.primary.message() if self.primary else None,
            version_template=resources.CryptoKeyVersionTemplate(
                algorithm=self.algorithm, protection_level=self.protection
            ),
            destroy_scheduled_duration=self.destroy_after,
        )

    def symmetric(self, version: str) -> None:
        """Raises Refusal unless the key's purpose is ENCRYPT_DECRYPT."""
        if self.purpose is not Purpose.ENCRYPT_DECRYPT:
            raise Refusal("wrong_purpose", version=version, purpose=self.purpose.name)


class Keys:
    """All rings and keys.

    Attributes:
        lock: The lock over the store and everything in it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._rings: dict[str, resources.KeyRing] = {}
        self._keys: dict[str, Key] = {}
        self._by_identity: dict[bytes, tuple[Key, Version]] = {}

    def create_ring(self, name: str) -> resources.KeyRing:
        """Creates a key ring."""
        with self.lock:
            if name in self._rings:
                raise Refusal("key_ring_exists", resource=name)
            self._rings[name] = resources.KeyRing(name=name, create_time=datetime.now(UTC))
            return self._rings[name]

    def has_ring(self, name: str) -> bool:
        """Returns whether a key ring exists."""
        with self.lock:
            return name in self._rings

    def create_key(self, key: Key, *, first_version: bool) -> Key:
        """Adds a key to its ring, with version 1 or without a version."""
        with self.lock:
            ring = key.name.rpartition("/cryptoKeys/")[0]
            if ring not in self._rings:
                raise Refusal("key_ring_not_found", resource=ring)
            if key.name in self._keys:
                raise Refusal("key_exists", resource=key.name)
            self._keys[key.name] = key
            if first_version:
                version = self.create_version(key.name)
                key.primary = version if key.purpose is Purpose.ENCRYPT_DECRYPT else None
            return key

    def create_version(self, name: str) -> Version:
        """Adds an enabled version to a key, without making it the primary one."""
        with self.lock:
            key = self.key(name)
            number = len(key.versions) + 1
            version = Version(f"{name}/cryptoKeyVersions/{number}", key.algorithm, key.protection)
            key.versions[number] = version
            self._by_identity[version.identity] = key, version
            return version

    def key(self, name: str) -> Key:
        """Returns a key."""
        with self.lock:
            if name not in self._keys:
                raise Refusal("key_not_found", resource=name)
            return self._keys[name]

    def version(self, name: str) -> Version:
        """Returns a version by its full name."""
        with self.lock:
            key, _, number = name.rpartition("/cryptoKeyVersions/")
            versions = self.key(key).versions
            if int(number) not in versions:
                raise Refusal("version_not_found", resource=name)
            return versions[int(number)]

    def set_primary(self, name: str, number: int) -> Key:
        """Makes a version the one that encrypts, whatever its state, as the service does."""
        with self.lock:
            key = self.key(name)
            version = self.version(f"{name}/cryptoKeyVersions/{number}")
            key.symmetric(version.name)
            key.primary = version
            return key

    def move(self, name: str, how: str) -> Version:
        """Changes the state of a version; `how` is one of MOVES."""
        with self.lock:
            version = self.version(name)
            sources, target = MOVES[how]
            if version.state not in sources:
                raise Refusal("illegal_transition", version=name, state=version.state.name)
            now = datetime.now(UTC)
            version.state = target
            scheduled = target is State.DESTROY_SCHEDULED
            version.destroys = now + self._of(version).destroy_after if scheduled else None
            if target is State.DESTROYED:
                version.destroyed, version.secret = now, b""
            return version

    def encrypt(self, name: str, plaintext: bytes, aad: bytes) -> tuple[Version, bytes]:
        """Encrypts with a version, or with the primary version of a key."""
        with self.lock:
            if KEY.fullmatch(name):
                key = self.key(name)
                first = key.versions.get(1)
                key.symmetric(first.name if first else name)
                version = key.primary
                if version is None:
                    raise Refusal("no_primary", resource=name)
            else:
                version = self.version(name)
                self._of(version).symmetric(name)
            version.usable()
            nonce = os.urandom(_NONCE)
            sealed = AESGCM(version.secret).encrypt(nonce, plaintext, aad)
            return version, _MAGIC + version.identity + nonce + sealed

    def decrypt(self, name: str, ciphertext: bytes, aad: bytes) -> tuple[Version, bytes]:
        """Decrypts with the version of this key that the ciphertext names."""
        with self.lock:
            asked = self.key(name)
            first = asked.versions.get(1)
            asked.symmetric(first.name if first else name)
            if not ciphertext:
                raise Refusal("ciphertext_of_another_key")
            found = self._by_identity.get(ciphertext[len(_MAGIC) : _HEADER])
            short = len(ciphertext) < _HEADER + _NONCE + _TAG
            if found is None or short or not ciphertext.startswith(_MAGIC):
                raise Refusal("ciphertext_invalid")
            key, version = found
            if key is not asked:
                raise Refusal("ciphertext_of_another_key")
            version.usable()
            nonce = ciphertext[_HEADER : _HEADER + _NONCE]
            try:
                sealed = ciphertext[_HEADER + _NONCE :]
                return version, AESGCM(version.secret).decrypt(nonce, sealed, aad)
            except InvalidTag:
                raise Refusal("ciphertext_does_not_open") from None

    def _of(self, version: Version) -> Key:
        return self._keys[version.name.rpartition("/cryptoKeyVersions/")[0]]
