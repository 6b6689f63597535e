"""GCP_CLOUD_KMS: root keys in Google Cloud KMS.

    uri          projects/P/locations/L/keyRings/R/cryptoKeys/K, without a version
    principal    the email of a service account, which Keyfold impersonates; left out, it is the
                 server's own identity
    options      delegates: the service accounts in between, separated by commas
    permissions  cloudkms.cryptoKeyVersions.useToEncrypt, cloudkms.cryptoKeyVersions.useToDecrypt
                 and cloudkms.cryptoKeys.get on the key; iam.serviceAccounts.getAccessToken on
                 the principal
    environment  what every Google tool reads: GOOGLE_*, the machine's metadata, the proxies

The binding is the additional authenticated data. The version is the one that Encrypt says it used.
A ciphertext names its version, so Decrypt does not need it. Requests and answers carry checksums.
An answer that does not fit its checksum, or that is about another key, does not count.

Invariant: an answer counts as a refusal only under a credential that Google accepted (protocol
F2a). The module `shared.lease` sees to that, and `errors` says what each answer means.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from google.api_core.exceptions import Unauthenticated
from google.cloud.kms_v1.types import resources, service
from google_crc32c import value as crc32c

from keyfold_server.domain.binding import PAYLOAD_SIZE, Binding
from keyfold_server.domain.errors import (
    InvalidPlaintextError,
    KekMismatchError,
    KeyInvalidError,
    SetupError,
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
from keyfold_server.providers.gcp.access import access_policy, check_own
from keyfold_server.providers.gcp.clients import Headers
from keyfold_server.providers.gcp.denials import word_of
from keyfold_server.providers.gcp.errors import (
    BROKEN,
    DECRYPT,
    ENCRYPT,
    GET,
    IMPERSONATE,
    NotAcceptedError,
    of_state,
    translate,
)
from keyfold_server.providers.gcp.foresight import Foresight
from keyfold_server.providers.gcp.principals import ServiceAccounts
from keyfold_server.providers.gcp.uri import canonical, check_account, is_project, project
from keyfold_server.providers.shared.deadlines import within

_MOST_CIPHERTEXT: Final = 65_536
"""Most bytes that Cloud KMS decrypts."""

_VERSION: Final = re.compile(r"/cryptoKeyVersions/[1-9][0-9]{0,18}")
_ENDPOINT: Final = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?")

# The plain messages. The SDK's own types convert each field, which costs as much CPU as a call.
_Encrypt: Any = service.EncryptRequest.pb()
_Decrypt: Any = service.DecryptRequest.pb()


class GcpKmsProvider(Foresight):
    """Root keys in Google Cloud KMS. Safe for many threads."""

    holder_example = "projects/acme-prod"

    def __init__(
        self,
        *,
        endpoint: str = "cloudkms.googleapis.com",
        iam_endpoint: str = "https://iamcredentials.googleapis.com",
        ca: str | Path | None = None,
        principal: str | None = None,
        canary: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the adapter; it calls Google with the first call.

        Args:
            endpoint: Cloud KMS's host, with its port if that is not 443. Keyfold always calls it
                over TLS.
            iam_endpoint: The https url of the IAM endpoint that impersonates service accounts.
            ca: File of the certificates to trust in place of the SDK's own, for these two
                endpoints and for those that give the server its credential.
            principal: The server's own identity, for the statements that customers attach: a
                service account's email, or a federated identity.
            canary: A service account of the vendor's own that Keyfold may impersonate. It shows
                that Keyfold's side works.
            clock: Returns monotonic seconds.

        Raises:
            SetupError: An endpoint or an account does not have the form of one, or the file
                cannot be read.
        """
        if not _ENDPOINT.fullmatch(endpoint):
            raise SetupError("[providers.gcp] endpoint must be HOST or HOST:PORT")
        # Keyfold sends a credential there.
        if not iam_endpoint.startswith("https://"):
            raise SetupError("[providers.gcp] iam_endpoint must begin with https://")
        if principal is not None and not check_own(principal):
            raise SetupError(
                "[providers.gcp] principal must be a service account's email, or begin with "
                "principal://iam.googleapis.com/"
            )
        self._own = principal
        if canary is not None and not check_account(canary):
            raise SetupError("[providers.gcp] canary must be a service account's email")
        try:
            self._principals = ServiceAccounts(
                endpoint,
                iam_endpoint.rstrip("/"),
                None if ca is None else Path(ca),
                canary,
                clock,
            )
        except OSError as error:
            raise SetupError(
                f"[providers.gcp] ca: the certificates in {ca} cannot be read "
                f"({type(error).__name__})"
            ) from error

    def canonical(self, key: RootKey) -> RootKey:
        """Returns the key in canonical form, or refuses it; see the port."""
        return canonical(key)

    def account(self, key: RootKey) -> str:
        """Returns the project that the key belongs to, as `projects/ID`."""
        return f"projects/{project(key.uri)}"

    def holder(self, name: str) -> str | None:
        """Returns a project as `projects/ID`, or None if the name is not one; see the port."""
        return name if is_project(name) else None

    def region(self, key: RootKey) -> str:
        """Returns the location that holds the key."""
        return key.uri.split("/")[3]

    def access_policy(self, key: RootKey, wanted: AccessWanted) -> AccessPolicy:
        """Returns custom roles and their bindings on key and principal; see the port."""
        return access_policy(key, self._own, wanted)

    def try_logins(self, *, budget: float) -> None:
        """Gets the server's own token, and impersonates the canary; see the port."""
        with within(budget), _translated(IMPERSONATE, "the server's identity"):
            self._principals.try_logins()

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        """Proves the credential by a renewal; see the port."""
        with within(budget), _translated(IMPERSONATE, key.principal or "the server's identity"):
            self._principals.of(key).lease.prove()

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        """Describes a root key; refuses as `wrap` does."""
        with within(budget), _translated(GET, key.uri):
            reply = self._call(key, "get_crypto_key", {"name": key.uri})
            found = resources.CryptoKey.pb(reply)
            if found.name != key.uri:
                raise _no_answer("described another key than the requested one")
            primary = _usable_primary(key, found)
            level = resources.ProtectionLevel(primary.protection_level).name
            return KeyDescription(f"symmetric key of protection level {level}")

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """Wraps up to 65 bytes under the primary version; see the port."""
        if not 1 <= len(plaintext) <= PAYLOAD_SIZE:
            raise InvalidPlaintextError(f"a root key wraps 1 to {PAYLOAD_SIZE} bytes")
        plaintext, aad = bytes(plaintext), binding.canonical()
        asked = _Encrypt(
            name=key.uri,
            plaintext=plaintext,
            additional_authenticated_data=aad,
            plaintext_crc32c={"value": crc32c(plaintext)},
            additional_authenticated_data_crc32c={"value": crc32c(aad)},
        )
        with within(budget), _translated(ENCRYPT, key.uri):
            reply = self._call(key, "encrypt", service.EncryptRequest.wrap(asked))
            sealed = service.EncryptResponse.pb(reply)
            if not (
                sealed.verified_plaintext_crc32c
                and sealed.verified_additional_authenticated_data_crc32c
            ):
                raise _no_answer("did not check the request's checksums")
            ciphertext = sealed.ciphertext
            if not ciphertext or not _fits(ciphertext, sealed, "ciphertext_crc32c"):
                raise _no_answer("sent an answer that was damaged on its way")
            if not sealed.name.startswith(key.uri) or not _VERSION.fullmatch(
                sealed.name, len(key.uri)
            ):
                raise _no_answer("wrapped under another key than the requested one")
            return Wrapped(ciphertext, sealed.name)

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """Opens what `wrap` returned; see the port."""
        del key_version  # The ciphertext names its version, and Decrypt does not take one.
        if not 1 <= len(ciphertext) <= _MOST_CIPHERTEXT:
            raise KekMismatchError("the stored key is not a ciphertext of Cloud KMS")
        ciphertext, aad = bytes(ciphertext), binding.canonical()
        asked = _Decrypt(
            name=key.uri,
            ciphertext=ciphertext,
            additional_authenticated_data=aad,
            ciphertext_crc32c={"value": crc32c(ciphertext)},
            additional_authenticated_data_crc32c={"value": crc32c(aad)},
        )
        with within(budget), _translated(DECRYPT, key.uri):
            reply = self._call(key, "decrypt", service.DecryptRequest.wrap(asked))
            opened = service.DecryptResponse.pb(reply)
            plaintext = opened.plaintext
            if not _fits(plaintext, opened, "plaintext_crc32c"):
                raise _no_answer("sent an answer that was damaged on its way")
            if not 1 <= len(plaintext) <= PAYLOAD_SIZE:
                raise _no_answer("opened the stored key to something of another size")
            return Unwrapped(bytearray(plaintext))

    def _call(self, key: RootKey, method: str, request: Any) -> Any:
        """Calls Cloud KMS as the key's principal."""
        principal = self._principals.of(key)

        def work(headers: Headers) -> Any:
            try:
                return principal.client.call(method, request, headers)
            except Unauthenticated as error:
                raise NotAcceptedError(word_of(error.reason)) from error

        return principal.lease.under(work)


def _fits(data: bytes, reply: Any, checksum: str) -> bool:
    """Says whether data fits the checksum of an answer; without a checksum it does not."""
    return bool(reply.HasField(checksum)) and getattr(reply, checksum).value == crc32c(data)


def _usable_primary(key: RootKey, found: Any) -> Any:
    """Returns a described key's primary version, or refuses."""
    if found.purpose != resources.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT:
        raise KeyInvalidError(f"root key {key.uri} is not a symmetric encryption key")
    if not found.HasField("primary"):
        raise KeyInvalidError(
            f"root key {key.uri} has no primary version; make one of its versions the primary"
        )
    state = resources.CryptoKeyVersion.CryptoKeyVersionState(found.primary.state).name
    refusal = of_state(state)
    if refusal is not None:
        kind, text = refusal
        raise kind(f"root key {key.uri} {text}")
    return found.primary


def _no_answer(what: str) -> UnreachableError:
    return UnreachableError(f"Cloud KMS {what}; try again")


@contextmanager
def _translated(permission: str, key: str) -> Iterator[None]:
    """Raises what an error of the SDK means."""
    try:
        yield
    except BROKEN as error:
        raise translate(error, permission, key) from error
