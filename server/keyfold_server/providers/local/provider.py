"""LOCAL: root keys in a file, for development, tests and single-machine use.

    uri                 local:NAME
    principal, options  not taken
    permissions         only the server's user can read the key file

Invariant: LOCAL behaves as a cloud's KMS does, so that what people try on it holds there: keys have
versions, a disabled version refuses, wrapping creates no key, and the context is bound. A fault of
the *file* says nothing about a key and is "could not tell"; only what the file says about a key is
a refusal. This module must not know who changes the file.

    ciphertext = "KFL1" ‖ u32 version ‖ nonce(12) ‖ AES-256-GCM ciphertext ‖ tag(16)
    AAD        = "KFL1" ‖ u32 version ‖ u16 len, key's name ‖ the binding's canonical bytes
"""

from __future__ import annotations

import logging
import os
import secrets
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyfold_server.domain.binding import PAYLOAD_SIZE, Binding, wipe
from keyfold_server.domain.errors import (
    InvalidKeySpecError,
    InvalidNameError,
    InvalidPlaintextError,
    KekMismatchError,
    KeyDisabledError,
    KeyNotFoundError,
    UnreachableError,
)
from keyfold_server.domain.files import Stamp
from keyfold_server.domain.keyspec import RootKey, check_name
from keyfold_server.domain.provider import (
    AccessPolicy,
    AccessWanted,
    KeyDescription,
    Unwrapped,
    Wrapped,
)
from keyfold_server.providers.local.contents import VersionState
from keyfold_server.providers.local.foresight import Foresight
from keyfold_server.providers.local.key_file import Contents, KeyFile, KeyFileError

_log = logging.getLogger(__name__)

_PREFIX: Final = "local:"
_MAGIC: Final = b"KFL1"
_HEADER: Final = struct.Struct(">4sI")
_NONCE: Final = 12
_TAG: Final = 16


class _Version(NamedTuple):
    """A version, ready for use. A destroyed version has no cipher."""

    state: VersionState
    cipher: AESGCM | None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The key file in memory: by key's name, then by version."""

    keys: Mapping[str, Mapping[int, _Version]]
    stamp: Stamp | None

    @classmethod
    def of(cls, contents: Contents) -> _Loaded:
        """Makes ciphers of a file's contents, and wipes the contents."""
        keys = {
            name: {
                v.number: _Version(v.state, None if v.material is None else AESGCM(v.material))
                for v in key.versions
            }
            for name, key in contents.keys.items()
        }
        contents.wipe()
        return cls(keys, contents.stamp)


class LocalProvider(Foresight):
    """Root keys in a development key file. Safe for many threads.

    The provider looks at the file on every call and reads it again when it has changed, so that
    `keyfold-server dev-keys disable` takes effect on a running server at once.
    """

    def __init__(self, path: str | Path) -> None:
        """Takes the key file's path, and warns. The first call reads the file."""
        self._file = KeyFile(path)
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        _log.warning(
            "LOCAL root keys lie in plain in %s: for development, tests and single-machine use "
            "only; whoever reads that file can open everything",
            self._file.path,
        )

    def canonical(self, key: RootKey) -> RootKey:
        """Returns the key as it is, or refuses it; see the port."""
        _name(key)
        if key.principal:
            raise InvalidKeySpecError(
                "LOCAL takes no auth_principal; leave it out", field="key_spec.auth_principal"
            )
        if key.options:
            raise InvalidKeySpecError(
                "LOCAL takes no options; leave them out", field="key_spec.options"
            )
        return key

    def account(self, key: RootKey) -> str:
        """Returns the key file's path, since its keys fail together."""
        _name(key)
        return str(self._file.path)

    def held_by_vendor(self, key: RootKey) -> bool:
        """Says that the key is the vendor's own, since the file is the server's; see the port."""
        del key
        return True

    def access_policy(self, key: RootKey, wanted: AccessWanted) -> AccessPolicy:
        """Returns a policy without statements, since there is nothing to attach; see the port."""
        _name(key)
        bound = Binding(wanted.cluster or "", wanted.region or "", b"", wanted.organization)
        return AccessPolicy(
            principal="the server's user",
            bound_context=bound.as_map(),
            statements=(),
            notices=(
                "LOCAL has no policies, so there is nothing to attach",
                "its key file must be readable by the server's user, and by nobody else",
            ),
        )

    def try_logins(self, *, budget: float) -> None:
        """Reads the key file, which is the only credential; see the port."""
        del budget
        self._file.read().wipe()

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        """Shows that the server can read the key file, which is its only credential."""
        del budget  # Nothing can cut the reading of a small file short, and nothing needs to.
        _name(key)
        self._keys(_request_id())

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        """Describes a root key; refuses as `wrap` does."""
        del budget
        self._newest(key, _request_id())
        return KeyDescription("AES-256-GCM in a development key file")

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """Wraps up to 65 bytes under the newest version; see the port."""
        del budget
        if not 1 <= len(plaintext) <= PAYLOAD_SIZE:
            raise InvalidPlaintextError(f"a root key wraps 1 to {PAYLOAD_SIZE} bytes")
        request_id = _request_id()
        number, cipher = self._newest(key, request_id)
        header = _HEADER.pack(_MAGIC, number)
        # Random nonces are safe for 2^32 wraps under one version. One machine does not come near
        # that with its KEKs.
        nonce = os.urandom(_NONCE)
        sealed = cipher.encrypt(nonce, plaintext, _aad(header, key, binding))
        return Wrapped(header + nonce + sealed, str(number), request_id)

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """Opens what `wrap` returned; see the port."""
        del budget
        request_id = _request_id()
        versions = self._versions(key, request_id)
        if len(ciphertext) <= _HEADER.size + _NONCE + _TAG:
            raise _mismatch(binding, request_id)
        header = ciphertext[: _HEADER.size]
        nonce = ciphertext[_HEADER.size : _HEADER.size + _NONCE]
        sealed = ciphertext[_HEADER.size + _NONCE :]
        magic, number = _HEADER.unpack(header)
        # Before the version is looked up: a damaged version number must not look like a destroyed
        # version, which would be a refusal.
        if magic != _MAGIC or str(number) != key_version:
            raise _mismatch(binding, request_id)
        cipher = _usable(key, number, versions, request_id)
        plaintext = bytearray(len(sealed) - _TAG)
        try:
            cipher.decrypt_into(nonce, sealed, _aad(header, key, binding), plaintext)
        except InvalidTag as error:
            wipe(plaintext)
            raise _mismatch(binding, request_id) from error
        return Unwrapped(plaintext, request_id)

    def _newest(self, key: RootKey, request_id: str) -> tuple[int, AESGCM]:
        versions = self._versions(key, request_id)
        number = max(versions)
        return number, _usable(key, number, versions, request_id)

    def _versions(self, key: RootKey, request_id: str) -> Mapping[int, _Version]:
        name = _name(key)
        versions = self._keys(request_id).get(name)
        if versions is None:
            raise KeyNotFoundError(
                f"there is no root key {key.uri} in {self._file.path}; check its name with "
                "keyfold-server dev-keys list",
                provider_request_id=request_id,
            )
        return versions

    def _keys(self, request_id: str) -> Mapping[str, Mapping[int, _Version]]:
        with self._lock:
            try:
                stamp = self._file.stamp()
                if self._loaded is None or self._loaded.stamp != stamp:
                    self._loaded = _Loaded.of(self._file.read())
            except KeyFileError as error:
                # Forget what an earlier read found: the operator may have taken it away on purpose.
                self._loaded = None
                raise UnreachableError(error.message, provider_request_id=request_id) from error
            return self._loaded.keys


def _name(key: RootKey) -> str:
    """Returns the key's name from its uri."""
    if key.uri.startswith(_PREFIX):
        try:
            return check_name(key.uri.removeprefix(_PREFIX), "the key's name")
        except InvalidNameError as error:
            raise InvalidKeySpecError(
                f"the uri must be local:NAME; {error.message}", field="key_spec.uri"
            ) from error
    raise InvalidKeySpecError(
        "the uri must be local:NAME, such as local:example", field="key_spec.uri"
    )


def _usable(key: RootKey, number: int, versions: Mapping[int, _Version], request_id: str) -> AESGCM:
    """Returns the cipher of a version, or refuses."""
    version = versions.get(number)
    if version is None or version.cipher is None:
        raise KeyNotFoundError(
            f"version {number} of root key {key.uri} does not exist or is destroyed",
            provider_request_id=request_id,
        )
    if version.state is VersionState.DISABLED:
        raise KeyDisabledError(
            f"version {number} of root key {key.uri} is disabled; enable it with "
            "keyfold-server dev-keys enable",
            provider_request_id=request_id,
        )
    return version.cipher


def _aad(header: bytes, key: RootKey, binding: Binding) -> bytes:
    """Returns the bytes that the tag covers; the name's length keeps any two inputs apart."""
    name = _name(key).encode()
    return header + struct.pack(">H", len(name)) + name + binding.canonical()


def _mismatch(binding: Binding, request_id: str) -> KekMismatchError:
    return KekMismatchError(
        "the stored key does not open under this root key and context: it was changed, or "
        "wrapped for another",
        cluster=binding.cluster,
        region=binding.region,
        provider_request_id=request_id,
    )


def _request_id() -> str:
    return secrets.token_hex(8)
