"""The keys of one vault or Managed HSM: names, versions, attributes, deletion.

A version is a frozen value. A change replaces it, so that a request keeps working with the version
that it found. Key states follow the real service: a disabled version neither unwraps nor decrypts
but still wraps and encrypts, and one outside its time neither wraps nor encrypts but still unwraps
and decrypts. This module knows no principals and no HTTP.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from counterparts.azure_errors import AzureError
from counterparts.azure_material import Material, bad_parameter, material

_NAME: Final = re.compile(r"[0-9a-zA-Z-]{1,127}")
_RETENTION: Final = 90 * 86_400
_USES_SECRET: Final = frozenset({"unwrapKey", "decrypt"})


@dataclass(frozen=True)
class Version:
    """One version of a key.

    Attributes:
        name: The key's name.
        id: Identifier of 32 hexadecimal digits.
        kty: The JSON Web Key type.
        material: The key material.
        key_ops: The operations that its owner permits.
        enabled: Whether it may unwrap and decrypt.
        nbf: Time from which it may wrap and encrypt, in seconds since the epoch.
        exp: Time until which it may wrap and encrypt, in seconds since the epoch.
        created: Time of its creation.
        updated: Time of its last change.
        tags: Its owner's notes.
    """

    name: str
    id: str
    kty: str
    material: Material
    key_ops: tuple[str, ...]
    enabled: bool
    nbf: int | None
    exp: int | None
    created: int
    updated: int
    tags: Mapping[str, str]

    def require(self, operation: str, now: float) -> None:
        """Raises AzureError unless the version may do an operation at this time."""
        if operation not in self.key_ops:
            raise AzureError("KeyOperationForbidden", operation=operation)
        if operation in _USES_SECRET:
            if not self.enabled:
                raise AzureError("KeyDisabled", operation=operation)
        elif self.nbf is not None and now < self.nbf:
            raise AzureError("KeyNotYetValid", operation=operation)
        elif self.exp is not None and now >= self.exp:
            raise AzureError("KeyExpired", operation=operation)


@dataclass(frozen=True)
class Deleted:
    """A key in soft deletion."""

    versions: tuple[Version, ...]
    deleted: int

    @property
    def purge(self) -> int:
        """Time when the real service would purge it; this one does not."""
        return self.deleted + _RETENTION


class Keys:
    """The keys of a vault, by their names without case. Safe for many threads.

    Args:
        hsm: Whether it is a Managed HSM, which has AES keys and no software keys.
        clock: Seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float], *, hsm: bool) -> None:
        self._kinds = ("RSA-HSM", "oct-HSM") if hsm else ("RSA", "RSA-HSM")
        self._clock = clock
        self._lock = threading.RLock()
        self._live: dict[str, list[Version]] = {}
        self._deleted: dict[str, Deleted] = {}

    def create(self, name: str, kty: str, size: int | None, **attributes: Any) -> Version:
        """Creates a key, or a new version of an existing one.

        Args:
            name: Name of letters, digits and dashes.
            kty: `RSA` (vault), `RSA-HSM` (both) or `oct-HSM` (Managed HSM).
            size: Bits; None for 2048 or 256.
            **attributes: `key_ops`, `enabled`, `nbf`, `exp`, `tags`.
        """
        if not _NAME.fullmatch(name):
            raise bad_parameter(
                f"'{name}' is not the name of a key: letters, digits and dashes only"
            )
        if kty not in self._kinds:
            raise bad_parameter(f"keys of type '{kty}' cannot be made here: {self._kinds}")
        self._require_free(name)
        made = material(kty, size)  # This takes time, so it is done without the lock.
        now = int(self._clock())
        version = Version(
            name=name,
            id=uuid.uuid4().hex,
            kty=kty,
            material=made,
            key_ops=made.key_ops,
            enabled=True,
            nbf=None,
            exp=None,
            created=now,
            updated=now,
            tags={},
        )
        version = replace(version, **attributes)
        with self._lock:
            self._require_free(name)
            self._live.setdefault(name.lower(), []).append(version)
        return version

    def rotate(self, name: str) -> Version:
        """Makes a new version like the newest one."""
        old = self.find(name)
        return self.create(old.name, old.kty, old.material.size, key_ops=old.key_ops, tags=old.tags)

    def find(self, name: str, version: str = "") -> Version:
        """Returns a version of a key; without one the newest, disabled or not."""
        for one in reversed(self.versions(name)):
            if version in ("", one.id):
                return one
        raise AzureError("KeyNotFound", name=f"{name}/{version}" if version else name)

    def versions(self, name: str) -> tuple[Version, ...]:
        """Returns a key's versions, newest last; empty if the key does not exist."""
        with self._lock:
            return tuple(self._live.get(name.lower(), ()))

    def newest(self) -> tuple[Version, ...]:
        """Returns the newest version of each key."""
        with self._lock:
            return tuple(versions[-1] for _, versions in sorted(self._live.items()))

    def update(self, name: str, version: str, **attributes: Any) -> Version:
        """Changes a version (`key_ops`, `enabled`, `nbf`, `exp`, `tags`); by default the newest."""
        with self._lock:
            old = self.find(name, version)
            new = replace(old, **attributes, updated=int(self._clock()))
            versions = self._live[name.lower()]
            versions[versions.index(old)] = new
        return new

    def delete(self, name: str) -> Deleted:
        """Deletes a key softly, with all its versions."""
        with self._lock:
            self.find(name)
            deleted = Deleted(tuple(self._live.pop(name.lower())), int(self._clock()))
            self._deleted[name.lower()] = deleted
        return deleted

    def deleted(self, name: str) -> Deleted:
        """Returns a key in soft deletion."""
        with self._lock:
            if (deleted := self._deleted.get(name.lower())) is None:
                raise AzureError("DeletedKeyNotFound", name=name)
        return deleted

    def recover(self, name: str) -> Version:
        """Brings a softly deleted key back as it was."""
        with self._lock:
            versions = list(self.deleted(name).versions)
            del self._deleted[name.lower()]
            self._live[name.lower()] = versions
        return versions[-1]

    def purge(self, name: str) -> None:
        """Removes a softly deleted key for good."""
        with self._lock:
            self.deleted(name)
            del self._deleted[name.lower()]

    def _require_free(self, name: str) -> None:
        with self._lock:
            if name.lower() in self._deleted:
                raise AzureError("ObjectIsDeletedButRecoverable", name=name)
