"""Service accounts of customers that Keyfold acts as, by tokens that IAM generates.

`shared.lease` renews the tokens, and decides what it means if Keyfold may no longer impersonate an
account (protocol F2a). This module must not know keys.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from google.auth.credentials import Credentials
from google.auth.impersonated_credentials import Credentials as Impersonation

from keyfold_server.domain.errors import (
    AccessDeniedError,
    CouldNotTellError,
    CredentialsFailedError,
    ThrottledError,
    UnreachableError,
)
from keyfold_server.providers.gcp.clients import Headers
from keyfold_server.providers.gcp.denials import (
    NO_ANSWER,
    OWN_SIDE,
    QUOTAS,
    Denial,
    http_denial,
)
from keyfold_server.providers.gcp.errors import BROKEN, DELEGATE, IMPERSONATE, NotAcceptedError
from keyfold_server.providers.gcp.http import Exchange, Sender
from keyfold_server.providers.shared.lease import Lease
from keyfold_server.providers.shared.logins import Granted, WithdrawnError

LIFETIME: Final = 15 * 60
"""Seconds that a token lasts at Google."""

_SCOPES: Final = ("https://www.googleapis.com/auth/cloudkms",)


class _Given(Credentials):
    """Keyfold's own credential, got already, in the form that google-auth takes a source."""

    def __init__(self, headers: Headers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.token = "given"  # noqa: S105  the real token is in the headers
        self._headers = headers

    def refresh(self, request: Any) -> None:
        raise NotImplementedError

    def apply(self, headers: dict[str, str], token: str | None = None) -> None:
        del token
        headers.update(self._headers)


def account(
    email: str,
    generate: Callable[[], str],
    shown_good: Callable[[Lease[Headers]], bool],
    clock: Callable[[], float],
) -> Lease[Headers]:
    """Returns the lease of a service account that a customer lets Keyfold act as.

    Args:
        email: The account.
        generate: Gets a token for it from IAM; see `generate`.
        shown_good: Tells whether Keyfold's own side is good, without asking this account.
        clock: Returns monotonic seconds.
    """

    def login(_rejected: Headers | None) -> Granted[Headers]:
        return Granted((("authorization", f"Bearer {generate()}"),), LIFETIME)

    return Lease(login, clock=clock, name=email, kind="service account", shown_good=shown_good)


def generate(
    sender: Sender, endpoint: str, email: str, delegates: tuple[str, ...], own: Headers
) -> str:
    """Gets a service account's token from IAM, by google-auth.

    Args:
        sender: Sends the requests.
        endpoint: IAM's address, such as `https://iamcredentials.googleapis.com`.
        email: The account.
        delegates: The accounts between Keyfold's own and that one.
        own: The headers that prove who Keyfold is.

    Raises:
        NotAcceptedError: IAM did not accept Keyfold's own credential.
        WithdrawnError: IAM knew Keyfold, and does not let it act as the account.
        KmsError: IAM could not be asked, or Keyfold's own side is at fault.
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
    """Returns the error that an answer of IAM without a token means."""
    answer = exchange.last
    told = None if answer is None else http_denial(answer.body)
    if answer is None or told is None or answer.status == HTTPStatus.OK:
        return UnreachableError("Google's IAM answered with something that is not an answer")
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return NotAcceptedError(told.word)
    # Whoever deletes an account takes it away from Keyfold, too.
    gone = answer.status == HTTPStatus.NOT_FOUND and told.word not in NO_ANSWER
    if gone or (answer.status == HTTPStatus.FORBIDDEN and told.missing):
        return _withdrawn(email, told.permission or (None if gone else IMPERSONATE))
    if told.word == "SERVICE_DISABLED" or told.word in OWN_SIDE:
        return CredentialsFailedError(
            f"Keyfold's own project or credential is not set up to act as {email} ({told.word}); "
            "enable the IAM Service Account Credentials API there"
        )
    return _undecided(told, answer.status, email)


def _undecided(told: Denial, status: int, email: str) -> CouldNotTellError:
    if told.word in QUOTAS:
        return ThrottledError(f"Google's IAM asks to slow down: a quota is used up ({told.word})")
    return UnreachableError(
        f"Google's IAM did not let Keyfold act as {email}: {told.meaning}, status {status}"
    )


def _withdrawn(email: str, permission: str | None) -> WithdrawnError:
    return WithdrawnError(
        AccessDeniedError(
            f"Google Cloud does not let Keyfold act as {email}; grant Keyfold's service "
            f"account, or the last of the delegates, {IMPERSONATE} on it, and on each delegate "
            f"{DELEGATE} to the one before",
            missing_permission=permission,
        ),
        CredentialsFailedError(
            f"Google Cloud does not let Keyfold act as {email}, and Keyfold's own identity "
            f"could not be shown to be good; look at its credential and its permission "
            f"{IMPERSONATE}"
        ),
    )
