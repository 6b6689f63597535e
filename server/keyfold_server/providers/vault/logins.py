"""Logins to Vault and OpenBao: with a token, AppRole, Kubernetes or a JWT.

Invariant (protocol C3): each login reads the credential from its origin's own file. Keyfold sends a
JWT only if the origin is its only audience, so that nobody can use it anywhere else. This module
must not know keys.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any, Final

from keyfold_server.domain.errors import CredentialsFailedError
from keyfold_server.providers.vault.clients import Clients
from keyfold_server.providers.vault.errors import BROKEN, login_failed
from keyfold_server.providers.vault.origins import Origin

_MOST: Final = 64 * 1024
"""Most bytes of a credential's file."""

_JWT_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class VaultToken:
    """A token that the server gave or knows.

    Attributes:
        secret: The token itself.
        seconds: The token's seconds from the login on; 0 if it holds until it is revoked.
    """

    secret: str = field(repr=False)
    seconds: float


class Login:
    """Logs in to one origin."""

    def __init__(self, origin: str, section: Origin, clients: Clients) -> None:
        """Prepares; the credential is read with the first login.

        Args:
            origin: Scheme, host and port.
            section: The origin's section of the settings.
            clients: The clients of the origin.
        """
        self._origin = origin
        self._section = section
        self._clients = clients

    @property
    def name(self) -> str:
        """As whom Keyfold logs in, for people."""
        return self._section.principal or "its token"

    def take(self) -> VaultToken:
        """Logs in, within the call's time.

        Raises:
            CredentialsFailedError: The credential cannot be read, or the server rejected it.
            CouldNotTellError: The server could not be asked.
        """
        credential = self._credential()
        if self._section.auth in ("kubernetes", "jwt"):
            self._check_audience(credential)
        try:
            return self._accepted(credential)
        except BROKEN as error:
            raise login_failed(error, f"{self.name} at {self._origin}") from error

    def _accepted(self, credential: str) -> VaultToken:
        section = self._section
        if section.auth == "token":
            return self._known(credential)
        auth = self._clients.of("", section.namespace).auth
        # With use_token the SDK would keep the token in the client.
        if section.auth == "approle":
            reply = auth.approle.login(
                section.role_id or section.role,
                credential,
                use_token=False,
                mount_point=section.path,
            )
        elif section.auth == "kubernetes":
            reply = auth.kubernetes.login(
                section.role, credential, use_token=False, mount_point=section.path
            )
        else:
            reply = auth.jwt.jwt_login(section.role, credential, use_token=False, path=section.path)
        return VaultToken(
            _text(reply["auth"]["client_token"]), float(reply["auth"]["lease_duration"])
        )

    def _known(self, token: str) -> VaultToken:
        """Looks up the token of the settings, and renews it where the server allows that."""
        auth = self._clients.of(token, self._section.namespace).auth
        found = auth.token.lookup_self()["data"]
        if found["ttl"] and found.get("renewable"):
            renewed = auth.token.renew_self()["auth"]
            return VaultToken(token, float(renewed["lease_duration"]))
        return VaultToken(token, float(found["ttl"]))

    def _credential(self) -> str:
        file = self._section.credential
        if file is None:
            return self._section.token
        try:
            with file.open("rb") as opened:
                text = opened.read(_MOST).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialsFailedError(
                f"the credential for {self._origin} cannot be read from {file} "
                f"({type(error).__name__}); put it there, readable for the server"
            ) from None
        if not text or not text.isprintable():
            raise CredentialsFailedError(
                f"the file {file} holds no credential for {self._origin}; it must hold one line"
            )
        return text

    def _check_audience(self, jwt: str) -> None:
        if _audiences(jwt) != [self._origin]:
            raise CredentialsFailedError(
                f"the token in {self._section.credential} is not sent, because it is not for "
                f"{self._origin} alone; have it issued with that as its only audience"
            )


def _audiences(jwt: str) -> list[Any]:
    """Returns a JWT's audiences; the server verifies its signature."""
    parts = jwt.split(".")
    if len(parts) != _JWT_PARTS:
        return []
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return []
    audience = claims.get("aud") if isinstance(claims, dict) else None
    return audience if isinstance(audience, list) else [audience]


def _text(found: Any) -> str:
    if not isinstance(found, str) or not found.isprintable() or not found:
        raise TypeError("the server's answer has no token")
    return found
