"""Federated credentials: assertions of another issuer, which an application gives for a secret.

An assertion counts if its issuer, subject and audience are exactly those of one credential, if it
is within its time, and if that credential's issuer signed it. The error names what does not fit, as
the real service's error does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from counterparts.azure_errors import AzureError

EXCHANGE: Final = "api://AzureADTokenExchange"
"""The audience of an assertion, unless a credential names another."""

_UNCHECKED: Final[Any] = {"verify_aud": False, "verify_exp": False, "verify_nbf": False}


@dataclass(frozen=True)
class Federated:
    """A federated credential: a description of assertions that replace an application's secret.

    Attributes:
        issuer: The assertion's `iss`.
        subject: The assertion's `sub`.
        audience: The assertion's `aud`.
        key: The issuer's public key in PEM; None means the directory's own.
    """

    issuer: str
    subject: str
    audience: str
    key: str | None

    def claim(self, name: str) -> str:
        """Returns the value that a claim of its assertions must have."""
        return {"iss": self.issuer, "sub": self.subject, "aud": self.audience}[name]


def check(assertion: str, credentials: Iterable[Federated], now: float, own: RSAPublicKey) -> None:
    """Raises an AADSTS error unless an assertion fits one of the credentials.

    Args:
        assertion: The JWT that the client presents.
        credentials: The application's federated credentials.
        now: Seconds since the epoch.
        own: The directory's own public key.
    """
    unsigned: Any = {"verify_signature": False}
    try:
        claims = jwt.decode(assertion, options=unsigned)
    except jwt.InvalidTokenError:
        raise AzureError("AADSTS700027") from None
    fitting = list(credentials)
    for error, name in (("AADSTS700211", "iss"), ("AADSTS700213", "sub"), ("AADSTS700212", "aud")):
        found = str(claims.get(name, ""))
        fitting = [one for one in fitting if one.claim(name) == found]
        if not fitting:
            raise AzureError(error, found=found)
    if not _time(claims, "nbf", 0) <= now < _time(claims, "exp", 0):
        raise AzureError("AADSTS700024")
    if not any(_signed(assertion, one.key or own) for one in fitting):
        raise AzureError("AADSTS700027")


def _signed(assertion: str, key: RSAPublicKey | str) -> bool:
    try:
        jwt.decode(assertion, key, algorithms=["RS256", "ES256"], options=_UNCHECKED)
    except (jwt.InvalidTokenError, ValueError, TypeError):  # signed otherwise, or by another kind
        return False
    return True


def _time(claims: Mapping[str, Any], name: str, missing: float) -> float:
    value = claims.get(name, missing)
    return float(value) if isinstance(value, int | float) else missing
