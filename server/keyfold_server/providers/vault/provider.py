"""VAULT_TRANSIT: root keys in the transit secrets engine of Vault and OpenBao.

    uri          https://HOST[:PORT]/v1/[NAMESPACE/]MOUNT/keys/NAME
    principal    auth/MOUNT/role/ROLE, which must be the origin's own; left out, it is the same
    options      not taken
    permissions  update MOUNT/encrypt/NAME and MOUNT/decrypt/NAME, read MOUNT/keys/NAME,
                 read auth/token/lookup-self (policy `default` has the last one)
    settings     a section for each origin; for one origin, the environment's VAULT_ADDR,
                 VAULT_TOKEN, VAULT_NAMESPACE and VAULT_CACERT

The binding's canonical bytes are the `associated_data`. The ciphertext names its version. The
adapter opens at once what it wrapped, since nothing else shows that the ciphertext arrived whole.

Invariants: Keyfold sends nothing to an origin without a section, and a credential only to its own
origin (protocol C3; module `origins`). An answer counts as a refusal only under a token that the
server accepted (protocol F2a; module `sessions`). Wrapping never creates a key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from keyfold_server.domain.binding import PAYLOAD_SIZE, Binding, wipe
from keyfold_server.domain.errors import (
    InvalidKeySpecError,
    InvalidPlaintextError,
    KekMismatchError,
    KmsError,
    UnreachableError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import (
    AccessPolicy,
    AccessWanted,
    KeyDescription,
    Unwrapped,
    Wrapped,
)
from keyfold_server.providers.shared.deadlines import within
from keyfold_server.providers.shared.opening import opening
from keyfold_server.providers.shared.origins import configured_origin
from keyfold_server.providers.shared.principals import Principals
from keyfold_server.providers.vault.access import access_policy
from keyfold_server.providers.vault.errors import BROKEN, Fault, StatusError, about_key, translate
from keyfold_server.providers.vault.foresight import Foresight
from keyfold_server.providers.vault.origins import Origin, Origins
from keyfold_server.providers.vault.sessions import Sessions
from keyfold_server.providers.vault.uri import KeyUri, check_principal, key_uri

_CIPHERTEXT: Final = re.compile(
    r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]{36,5000}={0,2})", re.ASCII
)

_AEAD: Final = frozenset(
    {"aes256-gcm96", "aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305"}
)
"""Types of keys that bind associated data; only OpenBao has the last one."""

_NEVER_MADE: Final = "ecdsa-p256"
"""A key type for which `encrypt` cannot create a key; the adapter sends it with each wrap.

The server looks at the type only if the key does not exist and the token may create one. Then it
refuses, so wrapping creates no key, whatever the token may do, and needs no call before it."""


class VaultTransitProvider(Foresight):
    """Root keys in transit secrets engines. Safe for many threads."""

    holder_example = "https://vault.example.com:8200"

    def __init__(
        self,
        *,
        origins: Mapping[str, Origin] | None = None,
        allowed: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the adapter; it calls a server with the first call.

        Args:
            origins: The sections of the settings, by origin: `https://HOST[:PORT]`.
            allowed: Origins of KEYFOLD_ALLOWED_ENDPOINTS. One with plain http must be in it.
            environment: The variables with VAULT_ADDR and its companions; None takes those of the
                process.
            clock: Returns monotonic seconds.

        Raises:
            SetupError: A section cannot work.
        """
        environment = os.environ if environment is None else environment
        self._origins = Origins(origins or {}, allowed, environment)
        self._clock = clock
        self._sessions: Principals[Sessions] = Principals()

    def canonical(self, key: RootKey) -> RootKey:
        """Returns the key with its origin in canonical form, or refuses it; see the port."""
        parts = key_uri(key.uri)
        if any(name == "namespace" for name, _ in key.options):
            raise InvalidKeySpecError(
                "the namespace is part of the uri, so that one key has one uri; write it after "
                "/v1/ and leave the option out",
                field="key_spec.options",
            )
        if key.options:
            raise InvalidKeySpecError(
                "VAULT_TRANSIT takes no options; leave them out", field="key_spec.options"
            )
        section = self._origins.of(parts.origin)
        if key.principal:
            check_principal(key.principal, section.principal, parts.origin)
        return RootKey(key.type, parts.uri, key.principal)

    def account(self, key: RootKey) -> str:
        """Returns the origin: its keys share a server's quota and fate."""
        return key_uri(key.uri).origin

    def holder(self, name: str) -> str | None:
        """Returns an origin in its one form, or None if the name is not one; see the port."""
        return configured_origin(name)

    def access_policy(self, key: RootKey, wanted: AccessWanted) -> AccessPolicy:
        """Returns the policy and how Keyfold's role gets it; see the port."""
        return access_policy(key, self._origins.of(key_uri(key.uri).origin), wanted)

    def try_logins(self, *, budget: float) -> None:
        """Logs in at every origin of the settings; see the port."""
        for origin in self._origins.places():
            with within(budget), _translated("read auth/token/lookup-self", origin):
                self._sessions_at(origin).prove()

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        """Proves the origin's credential by looking its token up; see the port."""
        with within(budget), _translated("read auth/token/lookup-self", key.uri):
            self._at(key).prove()

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        """Describes a root key; refuses as `wrap` does, and refuses types that it cannot use."""
        parts = key_uri(key.uri)
        with within(budget), _translated(f"read {parts.path('keys')}", key.uri):
            found = self._read(key, parts)
            if found.get("soft_deleted"):
                raise about_key(Fault.SOFT_DELETED, key.uri)
            kind = str(found["type"])
            if kind not in _AEAD:
                raise about_key(Fault.NOT_AEAD, key.uri)
            if found.get("derived"):
                raise about_key(Fault.DERIVED, key.uri)
            warned = "; its material can be exported" if found.get("exportable") else ""
            return KeyDescription(f"{kind} key{warned}")

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """Wraps up to 65 bytes under the newest version; see the port."""
        if not 1 <= len(plaintext) <= PAYLOAD_SIZE:
            raise InvalidPlaintextError(f"a root key wraps 1 to {PAYLOAD_SIZE} bytes")
        parts, bound = key_uri(key.uri), _base64(binding.canonical())
        with within(budget):
            with _translated(f"update {parts.path('encrypt')}", key.uri):
                reply = self._encrypt(key, parts, _base64(plaintext), bound)
                ciphertext = str(reply["data"]["ciphertext"])
                version = _version(ciphertext)
            with opening(), _translated(f"update {parts.path('decrypt')}", key.uri):
                if not version or not self._opens(key, parts, ciphertext, bound, plaintext):
                    raise UnreachableError(
                        f"the Vault server does not open what {key.uri} has just wrapped; try "
                        "again",
                        provider_request_id=_request_id(reply),
                    )
        return Wrapped(ciphertext.encode(), version, _request_id(reply))

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """Opens what `wrap` returned; see the port."""
        text = ciphertext.decode("latin-1")
        # The server accepts more texts than it writes, and answers a damaged version as if it were
        # disabled, which would be a refusal.
        if _version(text) != key_version:
            raise KekMismatchError(
                "the stored key is not a ciphertext of its version of the root key: it was changed",
                cluster=binding.cluster,
                region=binding.region,
            )
        parts, bound = key_uri(key.uri), _base64(binding.canonical())
        with within(budget), _translated(f"update {parts.path('decrypt')}", key.uri):
            try:
                reply = self._decrypt(key, parts, text, bound)
            except StatusError as answer:
                if answer.fault is Fault.TOO_OLD:
                    raise self._too_old(key, parts, key_version) from answer
                raise
            return Unwrapped(_plaintext(reply), _request_id(reply))

    def _encrypt(self, key: RootKey, parts: KeyUri, plaintext: str, bound: str) -> dict[str, Any]:
        def encrypt(client: Any) -> Any:
            return client.secrets.transit.encrypt_data(
                parts.name,
                plaintext,
                associated_data=bound,
                type=_NEVER_MADE,
                mount_point=parts.mount,
            )

        try:
            return dict(self._at(key).under(encrypt))
        except StatusError as answer:
            # For a key that does not exist, a policy without `create` denies what it would allow.
            if answer.fault is Fault.DENIED and self._is_missing(key, parts):
                raise about_key(Fault.NO_KEY, key.uri) from answer
            raise

    def _opens(
        self, key: RootKey, parts: KeyUri, ciphertext: str, bound: str, plaintext: bytes
    ) -> bool:
        """Says whether a ciphertext opens to the plaintext that was wrapped."""
        try:
            reply = self._decrypt(key, parts, ciphertext, bound)
        except StatusError as answer:
            if answer.fault is Fault.MISMATCH:
                return False
            raise
        opened = _plaintext(reply)
        same = hmac.compare_digest(opened, plaintext)
        wipe(opened)
        return same

    def _decrypt(self, key: RootKey, parts: KeyUri, ciphertext: str, bound: str) -> dict[str, Any]:
        def decrypt(client: Any) -> Any:
            return client.secrets.transit.decrypt_data(
                parts.name, ciphertext, associated_data=bound, mount_point=parts.mount
            )

        return dict(self._at(key).under(decrypt))

    def _read(self, key: RootKey, parts: KeyUri) -> dict[str, Any]:
        def read(client: Any) -> Any:
            return client.secrets.transit.read_key(parts.name, mount_point=parts.mount)

        return dict(self._at(key).under(read)["data"])

    def _is_missing(self, key: RootKey, parts: KeyUri) -> bool:
        """Says whether the server answers that the key does not exist."""
        try:
            self._read(key, parts)
        except StatusError as answer:
            return answer.fault is Fault.NO_KEY
        return False

    def _too_old(self, key: RootKey, parts: KeyUri, version: str) -> KmsError:
        """Returns the error for TOO_OLD: the version is below the minimum, or was trimmed."""
        try:
            oldest = int(self._read(key, parts).get("min_available_version", 0))
        except StatusError:
            oldest = 0
        return about_key(Fault.TRIMMED if int(version) < oldest else Fault.TOO_OLD, key.uri)

    def _at(self, key: RootKey) -> Sessions:
        return self._sessions_at(key_uri(key.uri).origin)

    def _sessions_at(self, origin: str) -> Sessions:
        try:
            section = self._origins.of(origin)
        except InvalidKeySpecError as error:
            # The settings have changed since the key was stored, which says nothing about it.
            raise UnreachableError(error.message) from None
        return self._sessions.get(origin, lambda: Sessions(origin, section, self._clock))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _version(ciphertext: str) -> str:
    """Returns a ciphertext's version, empty if the text is not as the server writes one."""
    found = _CIPHERTEXT.fullmatch(ciphertext)
    if found is None:
        return ""
    try:
        same = _base64(base64.b64decode(found[2], validate=True)) == found[2]
    except binascii.Error:
        return ""
    return found[1] if same else ""


def _plaintext(reply: dict[str, Any]) -> bytearray:
    return bytearray(base64.b64decode(reply["data"]["plaintext"], validate=True))


def _request_id(reply: dict[str, Any]) -> str:
    found = str(reply.get("request_id", ""))
    return found if re.fullmatch(r"[0-9a-f-]{1,64}", found) else ""


@contextmanager
def _translated(permission: str, key: str) -> Iterator[None]:
    """Raises what an error of a call means."""
    try:
        yield
    except BROKEN as error:
        raise translate(error, permission, key) from error
