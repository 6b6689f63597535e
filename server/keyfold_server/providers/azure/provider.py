"""AZURE_KEY_VAULT: root keys in Azure Key Vault and Azure Managed HSM, in every cloud of Azure.

    uri          https://V.vault.azure.net/keys/K or https://H.managedhsm.azure.net/keys/K wraps
                 under the newest version; with /VERSION, under that one
    principal    TENANT/CLIENT, an application that the customer's tenant admits, by a federated
                 credential; left out, it is the server's own identity (module `logins`)
    options      not taken
    permissions  data actions on the key: vaults/keys/wrap/action, unwrap/action and read; on a
                 Managed HSM keys/encrypt/action, decrypt/action and read/action (for its RSA
                 keys wrap and unwrap)
    environment  what every Azure tool reads: AZURE_*; settings for private clouds

An AES key of a Managed HSM binds the context as additional data (A256GCM). An RSA key does not
bind it (RSA-OAEP-256), and anybody can wrap under its public half: there only the payload's digest
and the row's seal protect the context.

Invariant: Azure itself wraps, and Keyfold never wraps with a public key that it kept. Keyfold opens
the ciphertext again at once, because a disabled key still wraps. An answer counts as a refusal only
under a token that Azure accepted (protocol F2a). This module must not know settings.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from keyfold_server.domain.binding import PAYLOAD_SIZE, Binding
from keyfold_server.domain.errors import (
    InvalidKeySpecError,
    InvalidPlaintextError,
    KekMismatchError,
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
from keyfold_server.providers.azure.access import access_policy
from keyfold_server.providers.azure.calls import Calls
from keyfold_server.providers.azure.ciphertext import Sealed
from keyfold_server.providers.azure.foresight import Foresight
from keyfold_server.providers.azure.logins import Logins
from keyfold_server.providers.azure.principals import Applications
from keyfold_server.providers.azure.uri import (
    KeyUri,
    Places,
    family_of,
    origin_of,
    principal,
)
from keyfold_server.providers.shared.deadlines import within
from keyfold_server.providers.shared.opening import opening
from keyfold_server.providers.shared.origins import configured_origin


class AzureKeyVaultProvider(Foresight):
    """Root keys in Azure Key Vault and Managed HSM. Safe for many threads."""

    holder_example = "https://acme.vault.azure.net"

    def __init__(
        self,
        *,
        authority: str | None = None,
        instance_discovery: bool = True,
        ca: str | None = None,
        allowed_endpoints: Iterable[str] = (),
        audiences: Mapping[str, str] | None = None,
        canary: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the adapter; it calls Azure with the first call.

        Args:
            authority: Microsoft Entra's https url. None takes AZURE_AUTHORITY_HOST, or else the
                cloud's own.
            instance_discovery: Whether the SDK asks Microsoft if the authority is a known one.
                Private clouds switch it off.
            ca: File of the certificates to trust; None takes those of requests.
            allowed_endpoints: Origins of vaults outside of Azure's own domains. Keyfold calls one
                over plain http only if it is listed with http.
            audiences: The audience of the tokens for each of these origins, such as
                `https://vault.azure.net`. Keyfold sends nothing to an origin without one.
            canary: A principal of the vendor's own, `TENANT/CLIENT`, which shows that Keyfold's
                side works.
            clock: Returns monotonic seconds.

        Raises:
            SetupError: One of the arguments cannot work.
        """
        if authority is not None and not (configured_origin(authority) or "").startswith("https:"):
            raise SetupError(
                "[providers.azure] authority must be an https url such as https://host:8443"
            )
        try:
            canary = None if canary is None else principal(canary)
        except InvalidKeySpecError as error:
            raise SetupError(
                "[providers.azure] canary must be TENANT/CLIENT, both GUIDs"
            ) from error
        self._places = Places(allowed_endpoints, audiences or {})
        logins = Logins(authority=authority, instance_discovery=instance_discovery, ca=ca)
        self._own = logins.client
        self._authority = authority or os.environ.get("AZURE_AUTHORITY_HOST", "")
        self._applications = Applications(logins, canary, ca, clock)
        self._calls = Calls(self._applications)

    def canonical(self, key: RootKey) -> RootKey:
        """Returns the key with its uri and principal in canonical form; see the port."""
        uri = self._places.uri(key.uri)
        if key.options:
            raise InvalidKeySpecError(
                "AZURE_KEY_VAULT takes no options; leave them out", field="key_spec.options"
            )
        return replace(
            key, uri=str(uri), principal=principal(key.principal) if key.principal else ""
        )

    def account(self, key: RootKey) -> str:
        """Returns the origin of the vault or Managed HSM: its keys share quota and fate."""
        return origin_of(key.uri)

    def holder(self, name: str) -> str | None:
        """Returns an origin in its one form, or None if the name is not one; see the port."""
        return configured_origin(name)

    def family(self, key: RootKey) -> str:
        """Returns the key's uri without a version; see the port."""
        return family_of(key.uri)

    def tenant(self, key: RootKey) -> str:
        """Returns the id of the customer's tenant, in which the principal is an application."""
        return key.principal.partition("/")[0]

    def pinned_version(self, key: RootKey) -> str | None:
        """Returns the version that the uri names, or None if the newest one wraps.

        To wrap again under a uri with a version rotates nothing.
        """
        return self._places.uri(key.uri).version or None

    def access_policy(self, key: RootKey, wanted: AccessWanted) -> AccessPolicy:
        """Returns the role, its assignment and the tenant's service principal; see the port."""
        return access_policy(key, self._places.uri(key.uri), self._own, wanted)

    def try_logins(self, *, budget: float) -> None:
        """Logs in as the server itself and as the canary; see the port."""
        with within(budget):
            self._applications.try_logins(self._places.usual(self._authority))

    def authenticate(self, key: RootKey, *, budget: float) -> None:
        """Proves the credential by a call that needs no permission in the vault; see the port."""
        uri = self._known(key)
        with within(budget):
            self._calls.accepted(key, uri)

    def describe(self, key: RootKey, *, budget: float) -> KeyDescription:
        """Describes a root key; refuses as `wrap` does."""
        uri = self._known(key)
        with within(budget):
            return self._calls.described(key, uri)

    def wrap(self, key: RootKey, plaintext: bytes, binding: Binding, *, budget: float) -> Wrapped:
        """Wraps up to 65 bytes under the newest or the pinned version; see the port."""
        if not 1 <= len(plaintext) <= PAYLOAD_SIZE:
            raise InvalidPlaintextError(f"a root key wraps 1 to {PAYLOAD_SIZE} bytes")
        uri = self._known(key)
        with within(budget):
            version, sealed, reply = self._calls.wrapped(key, uri, plaintext, binding)
            with opening():
                try:
                    opened, last = self._calls.opened(key, uri, version, sealed, binding)
                    same = hmac.compare_digest(opened, plaintext)
                    id_ = last.request_id
                except KekMismatchError as error:
                    same, id_ = False, error.provider_request_id or ""
                if not same:
                    raise UnreachableError(
                        f"Azure opened what {key.uri} had just wrapped to something else",
                        provider_request_id=id_,
                    )
        return Wrapped(sealed.encoded(), version, reply.request_id)

    def unwrap(
        self, key: RootKey, key_version: str, ciphertext: bytes, binding: Binding, *, budget: float
    ) -> Unwrapped:
        """Opens what `wrap` returned; see the port."""
        uri, sealed = self._known(key), Sealed.parsed(ciphertext)
        # Before the call to Azure: a damaged version must not look like one that does not exist,
        # which would be a refusal.
        # Azure compares the names of keys without case.
        if sealed is None or sealed.kid.lower() != uri.of(key_version).lower():
            raise KekMismatchError("the stored key is not one that this root key of Azure wrapped")
        with within(budget):
            opened, reply = self._calls.opened(key, uri, key_version, sealed, binding)
        return Unwrapped(opened, reply.request_id)

    def _known(self, key: RootKey) -> KeyUri:
        """Returns the parts of a key's uri that `canonical` accepted before.

        Raises:
            UnreachableError: `canonical` would refuse it under the settings of today, which says
                nothing about the key.
        """
        try:
            return self._places.uri(key.uri)
        except InvalidKeySpecError as error:
            raise UnreachableError(
                f"this server may not call the vault of {key.uri}: {error.message}"
            ) from error
