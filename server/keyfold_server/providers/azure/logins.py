"""How Keyfold logs in to Microsoft Entra: as itself, or as a principal of a customer's tenant.

    own identity, the first that the environment has:
        AZURE_CLIENT_SECRET                 an application's secret
        AZURE_CLIENT_CERTIFICATE_PATH       an application's certificate (… _PASSWORD)
        AZURE_FEDERATED_TOKEN_FILE          a workload identity's token; these three with
                                            AZURE_TENANT_ID and AZURE_CLIENT_ID
        none of these                       the managed identity, AZURE_CLIENT_ID for one of many
    principal TENANT/CLIENT:
        the workload identity's file, or a token of the managed identity, is the assertion; with a
        secret or certificate, CLIENT must be AZURE_CLIENT_ID itself

Invariant: every login makes a new credential of the SDK, so the SDK never serves a token from its
cache. Keyfold uses no developer's login. A token's scope is that of the vault it is for (protocol
C3). This module must not know which tokens Keyfold holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from azure.core.credentials import AccessTokenInfo, TokenRequestOptions
from azure.identity import (
    CertificateCredential,
    ClientAssertionCredential,
    ClientSecretCredential,
    ManagedIdentityCredential,
)

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    UnreachableError,
)
from keyfold_server.providers.azure.clients import BROKEN, SdkTransport, broken_off
from keyfold_server.providers.azure.clouds import Cloud
from keyfold_server.providers.azure.errors import WITHDRAWN, login_codes, login_failure
from keyfold_server.providers.azure.replies import Reply
from keyfold_server.providers.azure.uri import Place
from keyfold_server.providers.shared.logins import WithdrawnError

_MOST_ASSERTION: Final = 64 * 1024
"""Most bytes of a federated token's file."""


@dataclass(frozen=True, slots=True)
class EntraToken:
    """An access token of Microsoft Entra.

    Attributes:
        value: The text that is sent.
        expires: The end of its validity by Entra's clock, in seconds of Unix time.
    """

    value: str = field(repr=False)
    expires: float


def withdrawn(who: str, code: int, request_id: str) -> WithdrawnError:
    """Returns the error for an application that is not, or no longer, in its tenant.

    Args:
        who: The principal.
        code: The number with which Entra says so.
        request_id: Azure's id of the call.
    """
    return WithdrawnError(
        AccessDeniedError(
            f"Microsoft Entra does not know principal {who} any more "
            f"(AADSTS{code}); its tenant must let the application in, and enable it",
            provider_request_id=request_id,
        ),
        CredentialsFailedError(
            f"Microsoft Entra does not know principal {who} (AADSTS{code}), and "
            "Keyfold's own side could not be shown to be good; look at the server's identity",
            provider_request_id=request_id,
        ),
    )


class _Sdk(Protocol):
    """A credential of the SDK."""

    def get_token_info(
        self, *scopes: str, options: TokenRequestOptions | None = None
    ) -> AccessTokenInfo:
        """Returns a token."""
        ...


class Logins:
    """Logs in to Entra. Safe for many threads."""

    def __init__(
        self,
        *,
        authority: str | None,
        instance_discovery: bool,
        ca: str | None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Prepares; the first login asks Azure.

        Args:
            authority: Entra's url; None takes AZURE_AUTHORITY_HOST, else the cloud's own.
            instance_discovery: Whether the SDK asks Microsoft if the authority is a known one.
            ca: File of the certificates to trust; None trusts those that requests trusts.
            environment: The AZURE_* variables.
        """
        self._authority = authority
        self._discovery = instance_discovery
        self._environment = environment
        self._transport = SdkTransport(ca)

    @property
    def client(self) -> str:
        """The client id of the server's own identity; empty if the environment does not name it."""
        return self._variable("AZURE_CLIENT_ID").lower()

    def own(self, place: Place) -> EntraToken:
        """Logs in as the server's own identity.

        Raises:
            KmsError: There is no token. That says nothing about a customer's key.
        """
        tenant, client = self._variable("AZURE_TENANT_ID"), self._variable("AZURE_CLIENT_ID")
        if not self._is_application():
            return self._asked(self._managed, place.scope, "the managed identity")
        if not (tenant and client):
            raise CredentialsFailedError(
                "the server's own Azure identity is incomplete: AZURE_TENANT_ID and "
                "AZURE_CLIENT_ID must be set beside its secret, certificate or token file"
            )
        return self._asked(
            lambda: self._application(tenant, client, place.cloud), place.scope, "the server"
        )

    def principal(self, principal: str, place: Place) -> EntraToken:
        """Logs in as a principal of a customer's tenant.

        Raises:
            WithdrawnError: The application is not, or no longer, in the tenant.
            KmsError: There is no token for another reason. That is not a refusal.
        """
        tenant, _, client = principal.partition("/")
        if not self._is_application():
            # Keyfold gets its own token before it asks the customer's tenant, so that a fault of
            # its own identity never looks like the customer's doing.
            exchange = f"{place.cloud.exchange}/.default"
            assertion = self._asked(self._managed, exchange, "the managed identity").value
            return self._asked(
                lambda: self._asserted(tenant, client, place.cloud, lambda: assertion),
                place.scope,
                principal,
                foreign=True,
            )
        own = self._variable("AZURE_CLIENT_ID")
        if not self._variable("AZURE_FEDERATED_TOKEN_FILE") and own.lower() != client:
            raise CredentialsFailedError(
                f"the server's own Azure identity is application {own[:64]}, which cannot act as "
                f"{client}; use a managed or workload identity that the application trusts"
            )
        return self._asked(
            lambda: self._application(tenant, client, place.cloud),
            place.scope,
            principal,
            foreign=True,
        )

    def _is_application(self) -> bool:
        return any(
            self._variable(name)
            for name in (
                "AZURE_CLIENT_SECRET",
                "AZURE_CLIENT_CERTIFICATE_PATH",
                "AZURE_FEDERATED_TOKEN_FILE",
            )
        )

    def _application(self, tenant: str, client: str, cloud: Cloud) -> _Sdk:
        options: dict[str, Any] = {
            **self._options(cloud),
            "disable_instance_discovery": not self._discovery,
        }
        if secret := self._variable("AZURE_CLIENT_SECRET"):
            return ClientSecretCredential(tenant, client, secret, **options)
        if path := self._variable("AZURE_CLIENT_CERTIFICATE_PATH"):
            password = self._variable("AZURE_CLIENT_CERTIFICATE_PASSWORD") or None
            return CertificateCredential(tenant, client, path, password=password, **options)
        return self._asserted(tenant, client, cloud, self._file)

    def _asserted(
        self, tenant: str, client: str, cloud: Cloud, assertion: Callable[[], str]
    ) -> _Sdk:
        return ClientAssertionCredential(tenant, client, assertion, **self._options(cloud))

    def _managed(self) -> _Sdk:
        client = self._variable("AZURE_CLIENT_ID") or None
        return ManagedIdentityCredential(client_id=client, transport=self._transport, retry_total=0)

    def _options(self, cloud: Cloud) -> dict[str, Any]:
        authority = self._authority or self._variable("AZURE_AUTHORITY_HOST") or cloud.authority
        return {"authority": authority, "transport": self._transport, "retry_total": 0}

    def _file(self) -> str:
        """Returns the workload identity's token from the file, which the platform renews."""
        path = Path(self._variable("AZURE_FEDERATED_TOKEN_FILE"))
        try:
            with path.open("rb") as file:
                return file.read(_MOST_ASSERTION).decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise CredentialsFailedError(
                "the file that AZURE_FEDERATED_TOKEN_FILE names cannot be read "
                f"({type(error).__name__})"
            ) from error

    def _variable(self, name: str) -> str:
        return self._environment.get(name, "")

    def _asked(
        self, make: Callable[[], _Sdk], scope: str, who: str, *, foreign: bool = False
    ) -> EntraToken:
        """Asks for a token with a new credential of the SDK.

        Args:
            make: Makes the credential.
            scope: The token's scope.
            who: The identity that logs in, for the texts.
            foreign: Whether the principal is in a customer's tenant, who can withdraw it.
        """
        with self._transport.listening() as heard:
            try:
                found = make().get_token_info(scope)
                return EntraToken(found.token, float(found.expires_on))
            except BROKEN as error:
                refusal = heard.refusal
                if refusal is not None:
                    raise _meaning(refusal, who, foreign=foreign) from None
                if heard.failed is not None:
                    broken_off(heard.failed, f"Microsoft Entra, asked for a token for {who},")
                if not heard.sent:
                    raise CredentialsFailedError(
                        f"no token for {who}: its credential cannot be used "
                        f"({type(error).__name__}); look at the AZURE_* environment"
                    ) from None
                raise UnreachableError(
                    f"no token for {who}: Microsoft Entra's answer does not hold one"
                ) from None


def _meaning(reply: Reply, who: str, *, foreign: bool) -> Exception:
    """Returns the error that Entra's refusal means; see `Logins._asked`."""
    codes = WITHDRAWN.intersection(login_codes(reply))
    if foreign and codes:
        return withdrawn(who, min(codes), reply.request_id)
    return login_failure(reply, who)
