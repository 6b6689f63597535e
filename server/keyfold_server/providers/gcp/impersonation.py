"""A customer's service account that Keyfold acts as.

Invariant (protocol F2a): an account that may not be impersonated any more is the customer's
refusal only if Keyfold's own side is shown good since; otherwise it is CREDENTIALS_FAILED. Its
token is got anew at least every `LONGEST` seconds, since withdrawn trust shows only then. It must
not know keys.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from google.auth.credentials import Credentials
from google.auth.impersonated_credentials import Credentials as Impersonation

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CredentialsFailedError,
    KmsError,
    UnreachableError,
)
from keyfold_server.providers.gcp.clients import Headers
from keyfold_server.providers.gcp.credentials import Held, Token
from keyfold_server.providers.gcp.errors import (
    BROKEN,
    CLOSED,
    DELEGATE,
    IMPERSONATE,
    OWN_SIDE,
    NotAcceptedError,
    http_denial,
)
from keyfold_server.providers.gcp.http import Exchange, Sender

AHEAD: Final = 8 * 60.0
"""Seconds after which a token is got anew while the old one still serves, less up to one minute."""

LONGEST: Final = 10 * 60.0
"""Seconds after which a token is not used any more."""

LIFETIME: Final = 15 * 60
"""Seconds that a token lasts at Google."""

_SCOPES: Final = ("https://www.googleapis.com/auth/cloudkms",)


class DeniedError(Exception):
    """IAM knew who asked for a service account's token, and said no.

    Attributes:
        permission: The permission that is missing, where IAM names it.
    """

    def __init__(self, permission: str | None) -> None:
        """Takes the permission."""
        super().__init__(permission)
        self.permission = permission


class _Given(Credentials):
    """Our own credential as google-auth takes a source: had already, asking nobody."""

    def __init__(self, headers: Headers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.token = "given"  # noqa: S105  what shows it is in the headers
        self._headers = headers

    def refresh(self, request: Any) -> None:
        raise NotImplementedError

    def apply(self, headers: dict[str, str], token: str | None = None) -> None:
        del token
        headers.update(self._headers)


class Impersonated(Held):
    """A service account that a customer lets Keyfold act as."""

    def __init__(
        self,
        email: str,
        generate: Callable[[], str],
        shown_good: Callable[[Impersonated], bool],
        clock: Callable[[], float],
    ) -> None:
        """Prepares; the account's token is got with the first call.

        Args:
            email: The account.
            generate: Gets a token; raises `DeniedError` where IAM says no.
            shown_good: Tells whether Keyfold's own side is good, seen from beside this account.
            clock: Monotonic seconds.
        """
        super().__init__(clock)
        self.email = email
        self.taken_at: float | None = None
        self._generate = generate
        self._shown_good = shown_good
        # Tokens that were got together are renewed one after the other.
        self._ahead = AHEAD - random.uniform(0, 60)  # noqa: S311  no secret

    def probe(self) -> bool:
        """Tells whether the account can be impersonated now; what is held stays."""
        try:
            self._generate()
        except (KmsError, DeniedError):
            return False
        return True

    def _get(self) -> Token:
        began = self._clock()
        try:
            token = self._generate()
        except DeniedError as error:
            raise self._meaning(error) from error
        self.taken_at = began
        headers = (("authorization", f"Bearer {token}"),)
        return Token(headers, began, began + self._ahead, began + LONGEST)

    def _meaning(self, error: DeniedError) -> KmsError:
        """Returns what an impersonation that was denied means (protocol F2a)."""
        if self._shown_good(self):
            # No witness any more: it cannot show Keyfold's own side to be bad.
            self.taken_at = None
            return AccessDeniedError(
                f"Google Cloud does not let Keyfold act as {self.email}; grant Keyfold's service "
                f"account, or the last of the delegates, {IMPERSONATE} on it, and on each delegate "
                f"{DELEGATE} to the one before",
                missing_permission=error.permission,
            )
        return CredentialsFailedError(
            f"Google Cloud does not let Keyfold act as {self.email}, and Keyfold's own identity "
            f"could not be shown to be good; look at its credential and its permission "
            f"{IMPERSONATE}"
        )


def generate(
    sender: Sender, endpoint: str, email: str, delegates: tuple[str, ...], own: Headers
) -> str:
    """Gets a service account's token from IAM, by google-auth.

    Args:
        sender: What sends.
        endpoint: IAM's address, such as `https://iamcredentials.googleapis.com`.
        email: The account.
        delegates: The accounts between Keyfold's own and that one.
        own: What shows Keyfold's own credential.

    Raises:
        NotAcceptedError: Our own credential was not accepted.
        DeniedError: IAM knew us and said no.
        KmsError: IAM could not be asked.
    """
    exchange = Exchange(sender)
    make: Any = Impersonation
    account = make(
        source_credentials=_Given(own),
        target_principal=email,
        target_scopes=list(_SCOPES),
        delegates=[f"projects/-/serviceAccounts/{each}" for each in delegates] or None,
        lifetime=LIFETIME,
        iam_endpoint_override=(
            f"{endpoint}/v1/projects/-/serviceAccounts/{email}:generateAccessToken"
        ),
    )
    try:
        account.refresh(exchange)
    except BROKEN as error:
        raise _no_account(exchange, email) from error
    return str(account.token)


def _no_account(exchange: Exchange, email: str) -> Exception:
    """Returns what an answer of IAM that held no token means."""
    answer = exchange.last
    told = None if answer is None else http_denial(answer.body)
    if answer is None or told is None or answer.status == HTTPStatus.OK:
        return UnreachableError("Google's IAM answered with something that is no answer")
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return NotAcceptedError(told.word)
    if told.word == "SERVICE_DISABLED" or told.word in OWN_SIDE:
        return CredentialsFailedError(
            f"Keyfold's own project or credential is not set up to act as {email} ({told.word}); "
            "enable the IAM Service Account Credentials API there"
        )
    if told.word in CLOSED:
        return UnreachableError(f"Google's IAM could not be asked: {CLOSED[told.word]}")
    # An account that was deleted is one that its owner took away.
    if answer.status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
        needed = IMPERSONATE if answer.status == HTTPStatus.FORBIDDEN else None
        return DeniedError(told.permission or needed)
    return UnreachableError(
        f"Google's IAM did not let Keyfold act as {email}: {told.word}, status {answer.status}"
    )
