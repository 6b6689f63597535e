"""A transit key on OpenBao, with a login for Keyfold by each auth method, and a record of requests.

The module also has an issuer that signs JWTs with a key of its own, and an API server that knows
only Kubernetes's TokenReview.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from counterparts.faults import FaultLayer
from counterparts.messages import Reply, Request
from counterparts.openbao import OpenBao
from counterparts.openbao_alone import server_tls
from counterparts.pki import Authority
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.vault.origins import Auth, Origin
from keyfold_server.providers.vault.provider import VaultTransitProvider

ROLE: Final = "keyfold"


class Issuer:
    """Issues JWTs, and reviews them as a Kubernetes API server does."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public_key = (
            self._key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    def token(self, audience: str | list[str]) -> str:
        """Issues a token for an hour."""
        now = int(time.time())
        claims = {
            "sub": "system:serviceaccount:keyfold:server",
            "aud": audience,
            "iat": now,
            "exp": now + 3600,
            "jti": secrets.token_hex(8),
            # The Kubernetes method reads this without a call.
            "kubernetes.io": {
                "namespace": "keyfold",
                "serviceaccount": {"name": "server", "uid": "u-1"},
            },
        }
        return jwt.encode(claims, self._key, algorithm="ES256")

    def review(self, request: Request) -> Reply:
        """Answers a TokenReview."""
        spec = json.loads(request.body)["spec"]
        try:
            jwt.decode(
                spec["token"],
                self.public_key,
                algorithms=["ES256"],
                audience=spec.get("audiences"),
            )
        except jwt.InvalidTokenError:
            status: dict[str, Any] = {"authenticated": False, "error": "not valid"}
        else:
            user = {"username": "system:serviceaccount:keyfold:server", "uid": "u-1"}
            status = {
                "authenticated": True,
                "user": user,
                "audiences": spec.get("audiences", []),
            }
        kind = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status}
        return Reply(201, {"Content-Type": "application/json"}, json.dumps(kind).encode())


class Site:
    """One origin: a server behind a layer that records requests, with a transit key and logins.

    Attributes:
        sent: The requests to it, in order.
        layer: The layer of faults in front of it.
        key: The transit key.
        credential: The file with the login's credential.
    """

    def __init__(self, server: OpenBao, folder: Path, issuer: Issuer, auth: Auth) -> None:
        """Mounts an engine and the auth method; a site shares nothing with another site.

        Args:
            server: The server.
            folder: Folder for the credential.
            issuer: The issuer of JWTs.
            auth: Keyfold's auth method.
        """
        self.server = server
        self.sent: list[Request] = []
        self.layer = FaultLayer(self._record)
        authority = Authority("cluster")
        self._reviewer = FaultLayer(issuer.review, server_tls(authority))
        name = secrets.token_hex(6)
        self.mount, self.login = f"transit-{name}", f"login-{name}"
        self.credential = folder / f"credential-{name}"
        self.auth = auth
        server.mount(self.mount)
        server.create_key(self.mount, "app")
        self.allow(self.rules)
        self.section = Origin(auth, credential=self.credential)
        if auth == "token":
            made = server.call("POST", "auth/token/create", policies=[self.mount], ttl="1h")
            self._write(made["auth"]["client_token"])
            return
        server.enable_auth(self.login, auth)
        self.section = replace(self.section, mount=self.login, role=ROLE)
        self.give(self.mount)
        if auth == "approle":
            # The role's own name as its id, which the settings may then leave out.
            server.call("POST", f"auth/{self.login}/role/{ROLE}/role-id", role_id=ROLE)
            made = server.call("POST", f"auth/{self.login}/role/{ROLE}/secret-id")
            self._write(made["data"]["secret_id"])
            return
        self._write(issuer.token([self.layer.url]))
        if auth == "jwt":
            server.trust_issuer(self.login, issuer.public_key)
        else:
            server.trust_cluster(self.login, self._reviewer.url, authority.ca_pem.decode())

    @property
    def rules(self) -> dict[str, list[str]]:
        """The fewest rules that Keyfold needs."""
        return {
            f"{self.mount}/encrypt/app": ["update"],
            f"{self.mount}/decrypt/app": ["update"],
            f"{self.mount}/keys/app": ["read"],
        }

    @property
    def key(self) -> RootKey:
        """The transit key."""
        return self.key_named("app")

    def key_named(self, name: str) -> RootKey:
        """Returns a key of the engine, whether or not it exists."""
        return RootKey("VAULT_TRANSIT", f"{self.layer.url}/v1/{self.mount}/keys/{name}")

    def allow(self, rules: dict[str, list[str]]) -> None:
        """Writes the policy."""
        self.server.write_policy(self.mount, rules)

    def give(self, *policies: str) -> None:
        """Makes the role, or gives it these policies."""
        how: dict[str, Any] = {"token_policies": list(policies), "token_ttl": "1h"}
        make: dict[str, Callable[..., object]] = {
            "approle": self.server.create_app_role,
            "jwt": self.server.create_jwt_role,
            "kubernetes": self.server.create_kubernetes_role,
        }
        if self.auth != "approle":
            how["audience"] = self.layer.url
        make[self.auth](self.login, ROLE, **how)

    def provider(self, **how: Any) -> VaultTransitProvider:
        """Returns a provider that knows only this origin."""
        url = self.layer.url
        return VaultTransitProvider(
            **{"origins": {url: self.section}, "allowed": [url], "environment": {}, **how}
        )

    def logins(self) -> int:
        """Returns the number of logins so far."""
        return sum(each.path == f"/v1/auth/{self.login}/login" for each in self.sent)

    def _write(self, credential: str) -> None:
        self.credential.write_text(credential + "\n")

    def _record(self, request: Request) -> Reply:
        self.sent.append(request)
        return self.server.answer(request)

    def close(self) -> None:
        """Stops what the site started, and removes what it mounted."""
        self.layer.close()
        self._reviewer.close()
        self.server.unmount(self.mount)
        if self.auth != "token":
            self.server.disable_auth(self.login)
