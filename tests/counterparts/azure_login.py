"""The directory's HTTP endpoints: Entra's, and those of managed identities.

Entra has OpenID discovery, JWKS and the v2.0 token endpoint of each tenant. Managed identities have
the instance metadata service of a virtual machine and the endpoint of App Service, both in plain
HTTP as at Azure.
"""

from __future__ import annotations

import hmac
import secrets
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl

from counterparts.azure_errors import AzureError
from counterparts.azure_site import Answer, Request
from counterparts.entra import Directory

_ENTRA: Final[Mapping[tuple[str, ...], str]] = {
    ("v2.0", ".well-known", "openid-configuration"): "openid",
    ("oauth2", "v2.0", "token"): "token",
    ("discovery", "v2.0", "keys"): "keys",
}
"""The path of the token endpoint, behind the tenant."""
_IDENTITY: Final[Mapping[tuple[str, ...], str]] = {
    ("metadata", "identity", "oauth2", "token"): "imds",
    ("msi", "token"): "app_service",
}


class EntraSite:
    """The endpoints of the tenants.

    Args:
        directory: The directory that issues the tokens.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def operation(self, request: Request) -> str:
        """Names the operation of a request: `token`, `openid`, `keys` or `other`."""
        return _ENTRA.get(request.path[1:], "other")

    def answer(self, request: Request) -> Answer:
        """Answers discovery, JWKS and token requests."""
        directory = self._directory
        operation = self.operation(request)
        if operation == "keys" and request.method == "GET":
            return Answer(directory.keys())
        if operation == "openid" and request.method == "GET":
            return Answer(self._openid(request))
        if operation == "token" and request.method == "POST":
            tenant = request.path[0]
            form = dict(parse_qsl(request.body.decode("utf-8", "replace")))
            token = directory.login(tenant, form)
            lifetime = directory.lifetime
            body = {
                "token_type": "Bearer",
                "expires_in": lifetime,
                "ext_expires_in": lifetime,
                "access_token": token,
            }
            return Answer(body, principal=f"{tenant}/{form['client_id']}")
        raise AzureError("LeftOut")

    def values(self, request: Request) -> Mapping[str, str]:
        """Returns the values of the names in Entra's errors."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        correlation = request.headers.get("client-request-id") or str(uuid.uuid4())
        return {
            "trace": f"Trace ID: {request.id} Correlation ID: {correlation} Timestamp: {stamp}",
            "method": request.method,
            "path": "/" + "/".join(request.path),
        }

    def headers(self, request: Request) -> Mapping[str, str]:
        """Returns the headers of each answer, which keep caches from storing tokens."""
        return {"Cache-Control": "no-store, no-cache", "Pragma": "no-cache"}

    def _openid(self, request: Request) -> dict[str, object]:
        tenant = request.path[0]
        self._directory.require_tenant(tenant)
        base = f"{request.origin}/{tenant}"
        return {
            "issuer": self._directory.issuer(tenant, v2=True),
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }


class IdentitySite:
    """The endpoints that give a managed identity's tokens to programs on its machine.

    Args:
        directory: The directory that issues the tokens.

    Attributes:
        header: The value of IDENTITY_HEADER in App Service.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.header = secrets.token_hex(16)

    def operation(self, request: Request) -> str:
        """Names the operation of a request: `imds`, `app_service` or `other`."""
        return _IDENTITY.get(request.path, "other")

    def answer(self, request: Request) -> Answer:
        """Answers with a token, if the request shows that it comes from the machine itself."""
        operation = self.operation(request)
        if operation == "imds":
            if request.headers.get("metadata", "").lower() != "true":
                raise AzureError("MetadataHeader")
        elif operation == "app_service":
            if not hmac.compare_digest(request.headers.get("x-identity-header", ""), self.header):
                raise AzureError("IdentityHeader")
        else:
            raise AzureError("LeftOut")
        resource = request.query.get("resource", "").removesuffix("/")
        caller, token = self._directory.identity(request.query.get("client_id"), resource)
        until, lifetime = self._directory.until()
        body = {
            "access_token": token,
            "client_id": caller.client,
            "expires_in": str(lifetime),
            "expires_on": str(until),
            "resource": resource,
            "token_type": "Bearer",
        }
        return Answer(body, principal=caller.principal)

    def values(self, request: Request) -> Mapping[str, str]:
        """Returns the values of the names in its errors."""
        path = "/" + "/".join(request.path)
        return {"trace": f"Trace ID: {request.id}", "method": request.method, "path": path}

    def headers(self, request: Request) -> Mapping[str, str]:
        """Returns the headers of each answer: an empty mapping."""
        return {}
