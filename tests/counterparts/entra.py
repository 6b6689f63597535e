"""Callers: a directory as Microsoft Entra keeps it, and the tokens that it signs.

Every token is a JWT signed with the directory's own key. It names its resource, the tenant that
issued it, the application, and its end. On each call `verify` checks all of these, and that this
directory issued the token and has neither expired nor revoked it since. The directory knows
applications, their secrets, federated credentials and managed identities; it knows no HTTP.
"""

from __future__ import annotations

import base64
import hmac
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from counterparts.azure_errors import AzureError
from counterparts.azure_federation import EXCHANGE, Federated, check

_OBJECTS: Final = uuid.UUID("3f0a54c2-6a8a-4d4b-9d0e-5a0b3f1f0c11")


@dataclass(frozen=True)
class Caller:
    """The application that a token was issued to, and the tenant."""

    tenant: str
    client: str
    object: str

    @property
    def principal(self) -> str:
        """`tenant/client`, the name that permissions are given to."""
        return f"{self.tenant}/{self.client}"


@dataclass
class _Application:
    secrets: dict[str, bool] = field(default_factory=dict)  # Whether each is still good.
    federated: list[Federated] = field(default_factory=list)
    tenants: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)  # Tenants that had it, and removed it.
    disabled: bool = False


class Directory:
    """Tenants, applications and tokens. Safe for many threads.

    Args:
        clock: Clock in seconds since the epoch.

    Attributes:
        authority: The URL that clients call it by; set once its listener runs.
        lifetime: Seconds for which a token is good.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.authority = ""
        self._resources: set[str] = {EXCHANGE}
        self.lifetime = 3600
        self._clock = clock
        self._lock = threading.RLock()
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._kid = uuid.uuid4().hex
        self._tenants: set[str] = set()
        self._applications: dict[str, _Application] = {}
        self._identities: list[Caller] = []
        self._live: dict[str, tuple[Caller, bool]] = {}  # By token: its owner, and whether revoked.

    # --- administration ----------------------------------------------------------------------

    def host(self, tenant: str, resource: str) -> None:
        """Adds a tenant and the audience of a service there."""
        with self._lock:
            self._tenants.add(tenant)
            self._resources.add(resource)

    def register(self, tenant: str, client: str, secret: str | None) -> Caller:
        """Adds an application to its home tenant; with another secret, adds the secret."""
        with self._lock:
            application = self._applications.setdefault(client, _Application())
            if secret is not None:
                application.secrets[secret] = True
            self.consent(tenant, client)
        return _caller(tenant, client)

    def consent(self, tenant: str, client: str) -> Caller:
        """Lets an application into a tenant, its home or a customer's."""
        with self._lock:
            self._tenants.add(tenant)
            self._applications[client].tenants.add(tenant)
            self._applications[client].removed.discard(tenant)
        return _caller(tenant, client)

    def knows(self, tenant: str, client: str) -> bool:
        """Returns whether an application is in a tenant."""
        with self._lock:
            found = self._applications.get(client)
            return found is not None and tenant in found.tenants

    def withdraw(self, tenant: str, client: str) -> None:
        """Removes an application's service principal (7000229); its live tokens stay good."""
        with self._lock:
            self._applications[client].tenants.discard(tenant)
            self._applications[client].removed.add(tenant)

    def set_disabled(self, client: str, *, disabled: bool) -> None:
        """Disables an application everywhere (7000112), or enables it again."""
        with self._lock:
            self._applications[client].disabled = disabled

    def expire_secret(self, client: str, secret: str) -> None:
        """Lets a secret expire (7000222)."""
        with self._lock:
            self._applications[client].secrets[secret] = False

    def trust(self, client: str, credential: Federated) -> None:
        """Adds a federated credential to an application."""
        with self._lock:
            self._applications[client].federated.append(credential)

    def assign_identity(self, tenant: str, client: str) -> Caller:
        """Adds a managed identity; the first one is also the system-assigned one."""
        caller = _caller(tenant, client)
        with self._lock:
            self._tenants.add(tenant)
            self._identities.append(caller)
        return caller

    def object_id(self, tenant: str, client: str) -> str:
        """Returns the object id of an application or identity in a tenant."""
        return _caller(tenant, client).object

    def end_tokens(self, principal: str | None, *, revoked: bool) -> None:
        """Ends the live tokens of a principal or of all: expired, or revoked with a challenge."""
        with self._lock:
            for uti, (caller, _) in list(self._live.items()):
                if principal not in (None, caller.principal):
                    continue
                if revoked:
                    self._live[uti] = (caller, True)
                else:
                    del self._live[uti]

    # --- logins and tokens -------------------------------------------------------------------

    def issuer(self, tenant: str, *, v2: bool = False) -> str:
        """Returns the issuer of a tenant's tokens: v1 for vaults, v2 for exchanges."""
        return f"{self.authority}/{tenant}/" + ("v2.0" if v2 else "")

    def keys(self) -> dict[str, Any]:
        """Returns the JWKS that verify the tokens."""
        key = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [{**key, "kid": self._kid, "use": "sig", "alg": "RS256"}]}

    def require_tenant(self, tenant: str) -> None:
        """Raises AADSTS90002 for a tenant that does not exist."""
        with self._lock:
            if tenant not in self._tenants:
                raise AzureError("AADSTS90002", tenant=tenant)

    def login(self, tenant: str, form: Mapping[str, str]) -> str:
        """Returns a token for a client-credentials request, or raises an AADSTS error."""
        self.require_tenant(tenant)
        if (grant := form.get("grant_type", "")) != "client_credentials":
            raise AzureError("AADSTS70003", found=grant)
        client = form.get("client_id", "")
        with self._lock:
            application = self._applications.get(client)
            if application is not None and tenant in application.removed:
                raise AzureError("AADSTS7000229", client=client, tenant=tenant)
            if application is None or tenant not in application.tenants:
                raise AzureError("AADSTS700016", client=client, tenant=tenant)
            if application.disabled:
                raise AzureError("AADSTS7000112", client=client)
            self._prove(client, application, form)
            scope = form.get("scope", "")
            if not scope.endswith("/.default") or " " in scope:
                raise AzureError("AADSTS1002012", resource=scope)
            return self._issue(_caller(tenant, client), scope.removesuffix("/.default"))

    def identity(self, client: str | None, resource: str) -> tuple[Caller, str]:
        """Returns a managed identity and a token for it."""
        with self._lock:
            for caller in self._identities:
                if client in (None, caller.client):
                    return caller, self._issue(caller, resource)
        raise AzureError("IdentityNotFound")

    def until(self) -> tuple[int, int]:
        """Returns the end of a token issued now, in seconds since the epoch and from now."""
        return int(self._clock()) + self.lifetime, self.lifetime

    def verify(self, token: str, *, tenant: str, resource: str) -> Caller:
        """Returns the owner of a token that is good for a resource of a tenant.

        Raises:
            AzureError: The token is not good; the answer says why.
        """
        if not token:
            raise AzureError("AKV10000")
        try:
            claims = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=["RS256"],
                # The clock is our own, and the checks below say what is wrong.
                options={
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "require": ["aud", "iss", "exp", "nbf", "tid", "uti"],
                },
            )
        except jwt.InvalidTokenError:
            raise AzureError("AKV10046") from None
        if (issuer := self.issuer(tenant)) != claims["iss"] or claims["tid"] != tenant:
            raise AzureError("AKV10032", expected=issuer, found=claims["iss"])
        if claims["aud"] != resource:
            raise AzureError("AKV10022", expected=resource, found=claims["aud"])
        if (now := self._clock()) < claims["nbf"]:
            raise AzureError("TokenNotYetValid")
        with self._lock:
            live = self._live.get(claims["uti"])
        if live is None or now >= claims["exp"]:
            raise AzureError("TokenExpired")
        caller, revoked = live
        if revoked:
            raise AzureError("TokenRevoked", claims=_claims(int(now)))
        return caller

    # --- inside, under the lock --------------------------------------------------------------

    def _prove(self, client: str, application: _Application, form: Mapping[str, str]) -> None:
        if (secret := form.get("client_secret")) is not None:
            for known, good in application.secrets.items():
                if hmac.compare_digest(known.encode(), secret.encode()):
                    if good:
                        return
                    raise AzureError("AADSTS7000222", client=client)
            raise AzureError("AADSTS7000215", client=client)
        assertion = form.get("client_assertion")
        kind = form.get("client_assertion_type", "").removeprefix("urn:ietf:params:oauth:")
        if assertion is None or kind != "client-assertion-type:jwt-bearer":
            raise AzureError("AADSTS7000218")
        check(assertion, application.federated, self._clock(), self._key.public_key())

    def _issue(self, caller: Caller, resource: str) -> str:
        if resource not in self._resources:
            raise AzureError("AADSTS500011", resource=resource, tenant=caller.tenant)
        now = int(self._clock())
        uti = uuid.uuid4().hex
        v2 = resource == EXCHANGE
        claims = {
            "aud": resource,
            "iss": self.issuer(caller.tenant, v2=v2),
            "iat": now,
            "nbf": now,
            "exp": now + self.lifetime,
            "azp" if v2 else "appid": caller.client,
            "idtyp": "app",
            "oid": caller.object,
            "sub": caller.object,
            "tid": caller.tenant,
            "uti": uti,
            "ver": "2.0" if v2 else "1.0",
        }
        self._live[uti] = (caller, False)
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self._kid})


def _caller(tenant: str, client: str) -> Caller:
    return Caller(tenant, client, str(uuid.uuid5(_OBJECTS, f"{tenant}/{client}")))


def _claims(now: int) -> str:
    wanted = {"access_token": {"nbf": {"essential": True, "value": str(now)}}}
    return base64.b64encode(json.dumps(wanted).encode()).decode()
