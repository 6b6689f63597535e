"""Permissions at the Google Cloud counterpart: service accounts, tokens and bindings.

Nothing is permitted by default. A token is good until it expires or is revoked, for the scopes that
it was issued with. A permission holds on its resource and on everything below. This module knows no
keys and opens no ports.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from counterparts.gcp_errors import Refusal

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
GET_ACCESS_TOKEN = "iam.serviceAccounts.getAccessToken"
IMPLICIT_DELEGATION = "iam.serviceAccounts.implicitDelegation"
# google-auth writes this into every assertion, wherever it sends it.
GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"

# An assertion may hold for an hour; a little more allows for clocks that differ.
_LONGEST_ASSERTION = 3600
_SKEW = 60

# The predefined roles that tests use, with those of their permissions that are checked.
ROLES = {
    "roles/cloudkms.admin": (
        "cloudkms.keyRings.create",
        "cloudkms.cryptoKeys.create",
        "cloudkms.cryptoKeys.get",
        "cloudkms.cryptoKeys.update",
        "cloudkms.cryptoKeyVersions.create",
        "cloudkms.cryptoKeyVersions.destroy",
        "cloudkms.cryptoKeyVersions.get",
        "cloudkms.cryptoKeyVersions.restore",
        "cloudkms.cryptoKeyVersions.update",
    ),
    "roles/cloudkms.cryptoKeyDecrypter": ("cloudkms.cryptoKeyVersions.useToDecrypt",),
    "roles/cloudkms.cryptoKeyEncrypter": ("cloudkms.cryptoKeyVersions.useToEncrypt",),
    "roles/cloudkms.cryptoKeyEncrypterDecrypter": (
        "cloudkms.cryptoKeyVersions.useToDecrypt",
        "cloudkms.cryptoKeyVersions.useToEncrypt",
    ),
    "roles/cloudkms.viewer": ("cloudkms.cryptoKeys.get", "cloudkms.cryptoKeyVersions.get"),
    "roles/iam.serviceAccountTokenCreator": (GET_ACCESS_TOKEN, IMPLICIT_DELEGATION),
}


@dataclass(frozen=True)
class Token:
    """The meaning of an access token."""

    principal: str
    scopes: frozenset[str]
    expires: float


@dataclass(frozen=True)
class Api:
    """An API, with what its tokens need.

    Attributes:
        name: Its host name at Google, which is also a self-signed token's audience.
        scopes: Scopes, any one of which is enough.
    """

    name: str
    scopes: frozenset[str]


class Iam:
    """Service accounts, tokens and bindings. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[str, dict[str, rsa.RSAPublicKey]] = {}
        self._tokens: dict[str, Token] = {}
        self._bindings: set[tuple[str, str, str]] = set()
        self._roles = dict(ROLES)

    def add(self, principal: str) -> None:
        """Makes a service account, unless it exists."""
        with self._lock:
            self._keys.setdefault(principal, {})

    def remove(self, principal: str) -> None:
        """Deletes a service account with its keys, its tokens and its bindings."""
        with self._lock:
            self._keys.pop(principal, None)
            self._tokens = {k: t for k, t in self._tokens.items() if t.principal != principal}
            self._bindings = {b for b in self._bindings if b[0] != principal}

    def key_file(self, principal: str, token_uri: str) -> dict[str, str]:
        """Makes a key for a service account, and the account if it does not exist.

        Returns:
            The contents of the service account's key file.
        """
        self.add(principal)
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        kid = secrets.token_hex(20)
        with self._lock:
            self._keys[principal][kid] = private.public_key()
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "type": "service_account",
            "project_id": principal.partition("@")[2].partition(".")[0],
            "private_key_id": kid,
            "private_key": pem.decode(),
            "client_email": principal,
            "client_id": str(secrets.randbelow(10**21)),
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }

    def create_role(self, name: str, permissions: Collection[str]) -> None:
        """Makes a custom role, by its full name.

        Raises:
            ValueError: The role already exists.
        """
        with self._lock:
            if name in self._roles:
                raise ValueError(f"role {name} exists")
            self._roles[name] = tuple(permissions)

    def allow(self, principal: str, resource: str, permission: str) -> None:
        """Gives a permission, or those of a role, on a resource and everything below."""
        with self._lock:
            for each in self._permissions(permission):
                self._bindings.add((principal, resource, each))

    def deny(self, principal: str, resource: str, permission: str) -> None:
        """Takes back a permission, or those of a role, from the resource that it was given on."""
        with self._lock:
            for each in self._permissions(permission):
                self._bindings.discard((principal, resource, each))

    def given(self, principal: str) -> set[tuple[str, str]]:
        """Returns a principal's permissions: resources with permissions."""
        with self._lock:
            return {(where, each) for who, where, each in self._bindings if who == principal}

    def _permissions(self, name: str) -> Collection[str]:
        # The name of a role that does not exist is not a permission.
        if "roles/" in name and name not in self._roles:
            raise ValueError(f"there is no role {name}")
        return self._roles.get(name, (name,))

    def permitted(self, principal: str, resource: str, permission: str) -> bool:
        """Returns whether a principal has a permission on a resource or above it."""
        parts = resource.split("/")
        above = ("/".join(parts[:end]) for end in range(len(parts), 0, -1))
        with self._lock:
            return any((principal, each, permission) in self._bindings for each in above)

    def may_impersonate(self, chain: Collection[str]) -> bool:
        """Returns whether the first in the chain may get an access token of the last one.

        Each account before the last may delegate to the next; the last but one gets the token.
        """
        *delegations, last = pairwise(chain)
        links = [(link, IMPLICIT_DELEGATION) for link in delegations] + [(last, GET_ACCESS_TOKEN)]
        with self._lock:
            return all(
                target in self._keys and (source, target, permission) in self._bindings
                for (source, target), permission in links
            )

    def issue(self, principal: str, scopes: Collection[str], lifetime: float) -> str:
        """Issues an access token; its lifetime is in seconds."""
        token = "ya29.c." + secrets.token_urlsafe(48)
        with self._lock:
            expires = time.time() + lifetime
            self._tokens[token] = Token(principal, frozenset(scopes), expires)
        return token

    def expire(self, principal: str | None = None) -> None:
        """Ends the tokens issued so far, of one principal or of all, as if they had expired."""
        with self._lock:
            for text, token in self._tokens.items():
                if principal in {None, token.principal}:
                    self._tokens[text] = replace(token, expires=0)

    def revoke(self, principal: str | None = None) -> None:
        """Forgets the tokens issued so far, of one principal or of all."""
        with self._lock:
            kept = {k: t for k, t in self._tokens.items() if principal not in {None, t.principal}}
            self._tokens = kept

    def authenticate(self, authorization: str | None, api: Api) -> str:
        """Returns the owner of a token.

        Args:
            authorization: The header with the bearer token.
            api: The API that is called.

        Raises:
            Refusal: The token is missing, unknown or expired, or lacks the scope.
        """
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise Refusal("credentials_missing")
        with self._lock:
            token = self._tokens.get(text)
        if token is None:
            return self._self_signed(text, api)
        if token.expires <= time.time():
            raise Refusal("token_expired")
        if not token.scopes & api.scopes:
            raise Refusal("scope_insufficient")
        return token.principal

    def assertion(self, text: str, audiences: Collection[str] | None) -> dict[str, Any]:
        """Returns the claims that a service account has signed.

        Args:
            text: A JWT.
            audiences: Audiences, any one of which is accepted; None accepts all.

        Raises:
            Refusal: It is not a JWT, or its signer, signature, audience or time is wrong.
        """
        try:
            kid = str(jwt.get_unverified_header(text).get("kid"))
            issuer = str(jwt.decode(text, options={"verify_signature": False}).get("iss"))
        except jwt.InvalidTokenError:
            raise Refusal("assertion_malformed") from None
        with self._lock:
            if issuer not in self._keys:
                raise Refusal("assertion_account")
            key = self._keys[issuer].get(kid)
        if key is None:
            raise Refusal("assertion_signature")
        try:
            claims: dict[str, Any] = jwt.decode(
                text,
                key,
                algorithms=["RS256"],
                audience=audiences,
                leeway=_SKEW,
                options={"require": ["iat", "exp", "iss"], "verify_aud": audiences is not None},
            )
        except jwt.InvalidSignatureError:
            raise Refusal("assertion_signature") from None
        except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError) as error:
            missing = getattr(error, "claim", "aud")
            raise Refusal("assertion_audience" if missing == "aud" else "assertion_time") from None
        except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError):
            raise Refusal("assertion_time") from None
        except jwt.InvalidTokenError:
            raise Refusal("assertion_malformed") from None
        if claims["exp"] - claims["iat"] > _LONGEST_ASSERTION:
            raise Refusal("assertion_time")
        return claims

    def _self_signed(self, text: str, api: Api) -> str:
        # A service account may sign a token itself, for one API or with a scope (AIP-4111).
        try:
            claims = self.assertion(text, None)
        except Refusal as refusal:
            expired = refusal.args == ("assertion_time",)
            raise Refusal("token_expired" if expired else "token_invalid") from None
        if claims.get("sub") != claims["iss"]:
            raise Refusal("token_invalid")
        if "scope" in claims:
            if not set(str(claims["scope"]).split()) & api.scopes:
                raise Refusal("scope_insufficient")
        elif claims.get("aud") != f"https://{api.name}/":
            raise Refusal("token_invalid")
        return str(claims["iss"])
