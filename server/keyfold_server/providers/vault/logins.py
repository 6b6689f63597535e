"""Logins to Vault and OpenBao: with a token, AppRole, Kubernetes or a JWT.

Invariant (protocol C3): a credential is read from its origin's own file at each login. A JWT that
could be used anywhere else than at this origin is not sent: its only audience is the origin.
It must not know keys.
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
"""Bytes of a credential's file."""

_JWT_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Token:
    """A token that the server gave or knows.

    Attributes:
        secret: The token.
        seconds: How long it holds from the login on, 0: until it is revoked.
    """

    secret: str = field(repr=False)
    seconds: float


class Login:
    """How Keyfold logs in to one origin."""

    def __init__(self, place: str, origin: Origin, clients: Clients) -> None:
        """Prepares; see `Origin`. Nothing is read or sent."""
        self._place = place
        self._origin = origin
        self._clients = clients

    @property
    def name(self) -> str:
        """As whom, for people."""
        return self._origin.principal or "its token"

    def take(self) -> Token:
        """Logs in, within the call's time.

        Raises:
            CredentialsFailedError: The credential cannot be had or was not accepted.
            CouldNotTellError: The server could not be asked.
        """
        credential = self._credential()
        if self._origin.auth in ("kubernetes", "jwt"):
            self._check_audience(credential)
        try:
            return self._accepted(credential)
        except BROKEN as error:
            raise login_failed(error, f"{self.name} at {self._place}") from error

    def _accepted(self, credential: str) -> Token:
        origin = self._origin
        if origin.auth == "token":
            return self._known(credential)
        auth = self._clients.client("", origin.namespace).auth
        # The SDK would keep the token in a client of its own.
        if origin.auth == "approle":
            reply = auth.approle.login(
                origin.role_id or origin.role,
                credential,
                use_token=False,
                mount_point=origin.path,
            )
        elif origin.auth == "kubernetes":
            reply = auth.kubernetes.login(
                origin.role, credential, use_token=False, mount_point=origin.path
            )
        else:
            reply = auth.jwt.jwt_login(origin.role, credential, use_token=False, path=origin.path)
        return Token(_text(reply["auth"]["client_token"]), float(reply["auth"]["lease_duration"]))

    def _known(self, token: str) -> Token:
        """Asks what a token of one's own is worth, and renews it where that can be done."""
        auth = self._clients.client(token, self._origin.namespace).auth
        found = auth.token.lookup_self()["data"]
        if found["ttl"] and found.get("renewable"):
            renewed = auth.token.renew_self()["auth"]
            return Token(token, float(renewed["lease_duration"]))
        return Token(token, float(found["ttl"]))

    def _credential(self) -> str:
        file = self._origin.credential
        if file is None:
            return self._origin.token
        try:
            with file.open("rb") as opened:
                text = opened.read(_MOST).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialsFailedError(
                f"the credential for {self._place} cannot be read from {file} "
                f"({type(error).__name__}); put it there, readable for the server"
            ) from None
        if not text or not text.isprintable():
            raise CredentialsFailedError(
                f"the file {file} holds no credential for {self._place}; it must hold one line"
            )
        return text

    def _check_audience(self, jwt: str) -> None:
        if _audiences(jwt) != [self._place]:
            raise CredentialsFailedError(
                f"the token in {self._origin.credential} is not sent, because it is not for "
                f"{self._place} alone; have it issued with that as its only audience"
            )


def _audiences(jwt: str) -> list[Any]:
    """Returns whom a JWT is for; its signature is the server's to verify."""
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
