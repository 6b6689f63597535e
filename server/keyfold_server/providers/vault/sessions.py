"""Sessions at Vault and OpenBao: one login for each origin, and what a denial under it means.

Invariant (protocol F2a): the server's 403 is a refusal only under a token that is known to be
good, and `lookup-self` decides. `shared.lease` renews the logins. This module must not know keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from keyfold_server.domain import attempts
from keyfold_server.domain.errors import CredentialsFailedError, KmsError
from keyfold_server.providers.shared.lease import Lease
from keyfold_server.providers.shared.logins import Granted
from keyfold_server.providers.vault.clients import Clients
from keyfold_server.providers.vault.errors import Fault, StatusError
from keyfold_server.providers.vault.logins import Login
from keyfold_server.providers.vault.origins import Origin

_T = TypeVar("_T")

RECENT: Final = 5.0
"""Seconds after a login for which the token's policies count as the role's present ones."""


class Session(NamedTuple):
    """A token in use.

    Attributes:
        keys: The SDK's client for keys, whose uris name the namespace.
        token: The SDK's client for the token itself, in the namespace of the login.
        began: When the login began, in monotonic seconds.
    """

    keys: Any
    token: Any
    began: float


class Sessions:
    """The sessions at one origin, one after the other. Safe for many threads.

    Attributes:
        lease: The lease that keeps and renews them.
    """

    def __init__(self, origin: str, section: Origin, clock: Callable[[], float]) -> None:
        """Prepares; the login comes with the first call.

        Args:
            origin: Scheme, host and port.
            section: The origin's section of the settings.
            clock: Returns monotonic seconds.
        """
        self._origin = origin
        self._namespace = section.namespace
        self._clients = Clients(origin, section)
        self._login = Login(origin, section, self._clients)
        self._clock = clock
        self.lease: Lease[Session] = Lease(
            self._logged_in, clock=clock, name=self._login.name, kind=f"{origin} as", cloud=origin
        )

    def under(self, work: Callable[[Any], _T]) -> _T:
        """Makes a call, and makes it again under a new token if the server denies the first.

        Args:
            work: Makes the call with the SDK's client.

        Raises:
            StatusError: The server answered no. If the fault is DENIED, the token was good.
            KmsError: There is no good token.
        """
        used = self.lease.fresh()
        try:
            return work(used.keys)
        except StatusError as answer:
            if answer.fault is not Fault.DENIED:
                raise
            denied = answer
        good = self._accepted(used)
        if good and self._clock() - used.began < RECENT:
            raise denied
        try:
            new = self.lease.renew(used)
        except KmsError:
            # A denial under an accepted token counts, though Keyfold could not get a new one.
            if good:
                raise denied from None
            raise
        attempts.count_retry()
        try:
            return work(new.keys)
        except StatusError as again:
            if again.fault is Fault.DENIED and not good and not self._accepted(new):
                raise self._not_accepted() from again
            raise

    def prove(self) -> None:
        """Shows that the server accepts the token, or another one from a new login.

        Raises:
            CredentialsFailedError: The server accepts neither token.
            StatusError: The server answered something else.
        """
        used = self.lease.fresh()
        if not self._accepted(used) and not self._accepted(self.lease.renew(used)):
            raise self._not_accepted()

    def _logged_in(self, _rejected: Session | None) -> Granted[Session]:
        began = self._clock()
        token = self._login.take()
        keys = self._clients.of(token.secret)
        own = self._clients.of(token.secret, self._namespace) if self._namespace else keys
        return Granted(Session(keys, own, began), token.seconds or math.inf)

    def _accepted(self, session: Session) -> bool:
        """Tells whether the server accepts a session's token now."""
        try:
            # The server always tells the time to live, so without it this is not its answer.
            session.token.auth.token.lookup_self()["data"]["ttl"]
        except StatusError as answer:
            if answer.fault is Fault.DENIED:
                return False
            raise
        return True

    def _not_accepted(self) -> CredentialsFailedError:
        return CredentialsFailedError(
            f"{self._origin} does not accept the token that Keyfold has as {self._login.name}; "
            "renew its credential, and let its policy allow read auth/token/lookup-self"
        )
