"""The Key Vault keys REST API of one vault or Managed HSM.

Each request passes these checks in order: the bearer token (401 with the challenge), the firewall
(403), the api-version (400), the permission (403), and only then the key. So a caller without a
permission cannot tell whether a key exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from counterparts import azure_bodies as bodies
from counterparts.azure_errors import AzureError
from counterparts.azure_keys import Keys
from counterparts.azure_material import bad_parameter
from counterparts.azure_permissions import Permissions
from counterparts.azure_routes import Call
from counterparts.azure_site import Answer, Request
from counterparts.entra import Caller, Directory

_API_VERSIONS: Final = frozenset(
    {"2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01"}
)


class VaultSite:
    """One vault.

    Args:
        directory: The directory whose tokens it trusts.
        tenant: The tenant that it belongs to.
        resource: The audience that its tokens must have.
        hsm: Whether it is a Managed HSM.
        clock: Clock in seconds since the epoch.

    Attributes:
        hsm: Whether it is a Managed HSM.
        name: Its name in errors.
        keys: Its keys.
        permissions: Its role assignments.
        closed: The closed network's answer to everybody: `ForbiddenByFirewall`,
            `ForbiddenByConnection`, `ForbiddenByNsp`, or "" while it is open.
    """

    def __init__(
        self,
        directory: Directory,
        tenant: str,
        resource: str,
        clock: Callable[[], float],
        *,
        hsm: bool,
    ) -> None:
        self.name = "counterpart-hsm" if hsm else "counterpart"
        self.keys = Keys(clock, hsm=hsm)
        self.permissions = Permissions(hsm=hsm)
        self.closed = ""
        self._directory = directory
        self._tenant = tenant
        self._resource = resource
        self._clock = clock
        self.hsm = hsm

    def operation(self, request: Request) -> str:
        """Names a request's operation; a request without a token asks for the `challenge`."""
        if not request.headers.get("authorization"):
            return "challenge"
        call = Call.of(request)
        return call.operation if call else "other"

    def answer(self, request: Request) -> Answer:
        """Answers a request, or raises AzureError with the caller, if it is known."""
        caller = self._authenticated(request)
        try:
            return Answer(*self._permitted(caller, request), principal=caller.principal)
        except AzureError as error:
            error.values = {
                "client": caller.client,
                "object": caller.object,
                "issuer": self._directory.issuer(caller.tenant),
                "principal": caller.principal,
                **error.values,
            }
            raise

    def values(self, request: Request) -> Mapping[str, str]:
        """Returns the values of the names in its errors."""
        path = "/" + "/".join(request.path)
        return {
            "vault": self.name,
            "address": request.address,
            "method": request.method,
            "path": path,
        }

    def headers(self, request: Request) -> Mapping[str, str]:
        """Returns the headers of each answer."""
        return {
            "Cache-Control": "no-cache",
            "x-ms-keyvault-region": "counterpart",
            "x-ms-client-request-id": request.headers.get("x-ms-client-request-id", request.id),
        }

    def _authenticated(self, request: Request) -> Caller:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        bearer = token if kind.lower() == "bearer" else ""
        try:
            return self._directory.verify(bearer, tenant=self._tenant, resource=self._resource)
        except AzureError as error:
            error.headers["WWW-Authenticate"] = self._challenge(error.values.get("claims"))
            raise

    def _challenge(self, claims: str | None) -> str:
        challenge = f'Bearer authorization="{self._directory.authority}/{self._tenant}"'
        if claims:
            return f'{challenge}, error="insufficient_claims", claims="{claims}"'
        if self.hsm:
            return f'{challenge}, scope="{self._resource}/.default"'
        return f'{challenge}, resource="{self._resource}"'

    def _permitted(self, caller: Caller, request: Request) -> tuple[object, int]:
        if self.closed:
            raise AzureError(self.closed)
        if (version := request.query.get("api-version", "")) not in _API_VERSIONS:
            raise AzureError("MissingApiVersion", version=version)
        if (call := Call.of(request)) is None:
            raise AzureError("LeftOut")
        (action,) = self.permissions.actions(call.action)
        if not self.permissions.allowed(caller.principal, call.name, action):
            denied = "AccessDenied" if self.hsm else "ForbiddenByRbac"
            raise AzureError(denied, action=action, name=call.name)
        if call.key_op:
            return self._crypto(call, request), 200
        if call.operation == "purge":
            self.keys.purge(call.name)
            return None, 204
        return self._managed(call, request), 200

    def _crypto(self, call: Call, request: Request) -> object:
        algorithm, given = bodies.operation(bodies.body(request))
        version = self.keys.find(call.name, call.version)
        operation = call.key_op
        version.require(operation, self._clock())
        if algorithm not in (known := version.material.algorithms(operation)):
            raise bad_parameter(f"{operation} with a key of type {version.kty} takes {known}")
        seals = operation in {"wrapKey", "encrypt"}
        compute = version.material.seal if seals else version.material.open
        return bodies.result(version, compute(algorithm, given), request.origin)

    def _managed(self, call: Call, request: Request) -> object:
        keys, name, origin = self.keys, call.name, request.origin
        if call.operation in {"create", "update"}:
            given = bodies.body(request)
            wanted = bodies.attributes(given)
            if call.operation == "update":
                return bodies.bundle(keys.update(name, call.version, **wanted), origin)
            return bodies.bundle(keys.create(name, *bodies.kind(given), **wanted), origin)
        if call.operation in {"versions", "list"}:
            found = keys.versions(name) if call.operation == "versions" else keys.newest()
            return bodies.page(found, request)
        if call.operation in {"delete", "get_deleted"}:
            gone = keys.delete(name) if call.operation == "delete" else keys.deleted(name)
            return bodies.deleted(gone, origin)
        if call.operation == "get":
            return bodies.bundle(keys.find(name, call.version), origin)
        return bodies.bundle(
            keys.rotate(name) if call.operation == "rotate" else keys.recover(name), origin
        )
