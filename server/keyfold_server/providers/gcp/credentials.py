"""The server's own credential for Google Cloud: a file, a federated identity or the machine's.

google-auth finds and refreshes the credential, but only when Keyfold tells it to, so that Keyfold
decides where the token goes. `shared.lease` renews the token, and decides what a rejected one means
(protocol F2a). This module must not know keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import google.auth
from google.auth.credentials import with_scopes_if_required

from keyfold_server.domain.errors import (
    CouldNotTellError,
    CredentialsFailedError,
    KmsError,
    UnreachableError,
)
from keyfold_server.providers.gcp.clients import Headers
from keyfold_server.providers.gcp.errors import BROKEN, oauth_word
from keyfold_server.providers.gcp.http import Exchange, Sender
from keyfold_server.providers.shared.lease import Lease
from keyfold_server.providers.shared.logins import Granted

_PLATFORM: Final = ("https://www.googleapis.com/auth/cloud-platform",)


def own_identity(sender: Sender, clock: Callable[[], float]) -> Lease[Headers]:
    """Returns the lease of the server's own identity; the first call asks Google.

    Args:
        sender: Sends the requests.
        clock: Returns monotonic seconds.
    """
    return Lease(
        OwnLogin(sender),
        clock=clock,
        kind="the server's own Google identity",
        # No customer can withdraw this identity, so its token may serve until its own end.
        longest=math.inf,
    )


class OwnLogin:
    """Gets tokens of the server's own identity. A lease calls it from one thread at a time."""

    def __init__(self, sender: Sender) -> None:
        """Takes the sender; the first login looks for the credential."""
        self._sender = sender
        self._source: Any = None

    def __call__(self, rejected: Headers | None) -> Granted[Headers]:
        """Gets a token; if Google rejected the last one, looks for the credential anew.

        Raises:
            CouldNotTellError: There is no token, or only the one that Google rejected.
        """
        if rejected is not None:
            self._source = None
        exchange = Exchange(self._sender)
        try:
            self._source = self._source or _found(exchange)
            self._source.refresh(exchange)
            headers: dict[str, str] = {}
            self._source.apply(headers)
            seconds = _seconds_until(self._source.expiry)
        except KmsError:
            raise
        except (*BROKEN, OSError) as error:
            self._source = None
            raise _no_credential(error, exchange) from error
        session = tuple(headers.items())
        if session == rejected:
            raise CredentialsFailedError(
                "Google Cloud does not accept the server's own credential, and there is no other; "
                "renew it where the GOOGLE_* environment points to"
            )
        return Granted(session, seconds)


def _found(exchange: Exchange) -> Any:
    """Looks for the server's own credential where every Google tool does."""
    try:
        # Without scopes: given any, the SDK would also ask Google for the project's name.
        source, _ = google.auth.default(request=exchange)
    except UnreachableError as error:
        raise CredentialsFailedError(
            "there is no Google credential on this server: no file, and no metadata server that "
            "answers; set GOOGLE_APPLICATION_CREDENTIALS or give its machine a service account"
        ) from error
    scoped: Any = with_scopes_if_required
    return scoped(source, _PLATFORM)


def _seconds_until(expiry: datetime | None) -> float:
    if expiry is None:
        return math.inf
    return (expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()


def _no_credential(error: Exception, exchange: Exchange) -> CouldNotTellError:
    """Returns the error that says why the server has no credential of its own."""
    answer = exchange.last
    if answer is None:
        return CredentialsFailedError(
            "there is no usable Google credential on this server; look at the GOOGLE_* environment "
            f"and what it points to ({type(error).__name__})"
        )
    word = oauth_word(answer.body)
    if answer.status == HTTPStatus.OK or word is None:
        return UnreachableError(
            "Google's token endpoint answered with something that is not an answer"
        )
    return CredentialsFailedError(
        f"Google gives no token for the server's own credential ({word}); renew it where the "
        "GOOGLE_* environment points to"
    )
