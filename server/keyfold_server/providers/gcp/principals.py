"""The service accounts that Keyfold acts as, and the server's own identity.

Invariant: each principal has a channel of its own, and the number of principals that are kept is
bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc

from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.gcp.clients import Client, Headers
from keyfold_server.providers.gcp.credentials import own_identity
from keyfold_server.providers.gcp.http import Sender
from keyfold_server.providers.gcp.impersonation import account, generate
from keyfold_server.providers.gcp.uri import delegates
from keyfold_server.providers.shared.lease import Lease
from keyfold_server.providers.shared.logins import canary_of_our_own
from keyfold_server.providers.shared.principals import Principal, Principals

GcpPrincipal = Principal[Headers, Client]
"""A principal with the client that calls as it."""


class ServiceAccounts:
    """Principals by service account and delegates. Safe for many threads."""

    def __init__(
        self,
        target: str,
        iam: str,
        ca: Path | None,
        canary: str | None,
        clock: Callable[[], float],
    ) -> None:
        """Prepares; the first call asks Google.

        Args:
            target: Host and port of Cloud KMS.
            iam: Address of IAM's credentials service.
            ca: File of the certificates to trust, None for the SDK's own.
            canary: A service account of the vendor's that shows Keyfold's own side to be good,
                or None.
            clock: Returns monotonic seconds.

        Raises:
            OSError: The file cannot be read.
        """
        self._target = target
        self._iam = iam
        self._tls = grpc.ssl_channel_credentials(None if ca is None else ca.read_bytes())
        self._sender = Sender(None if ca is None else str(ca))
        self._canary = canary
        self._clock = clock
        self._own: GcpPrincipal = self._joined(own_identity(self._sender, clock))
        self._others: Principals[GcpPrincipal] = Principals(gone=lambda each: each.client.close())

    def of(self, key: RootKey) -> GcpPrincipal:
        """Returns the principal that uses a root key."""
        if not key.principal:
            return self._own
        email, through = key.principal, delegates(key)

        def make() -> GcpPrincipal:
            lease = account(
                email, lambda: self._generate(email, through), self._shown_good, self._clock
            )
            return self._joined(lease)

        return self._others.get((email, through), make)

    def try_logins(self) -> None:
        """Gets the server's own token, and impersonates the canary; see `TriesLogins`."""
        self._own.lease.prove()
        if self._canary is not None:
            with canary_of_our_own():
                self._generate(self._canary, ())

    def _joined(self, lease: Lease[Headers]) -> GcpPrincipal:
        return Principal(lease, Client(self._target, self._tls))

    def _generate(self, email: str, through: tuple[str, ...]) -> str:
        return self._own.lease.under(
            lambda own: generate(self._sender, self._iam, email, through, own)
        )

    def _shown_good(self, besides: Lease[Headers]) -> bool:
        canary = self._canary
        return self._others.shown_good(
            besides,
            canary=None if canary is None else lambda: self._generate(canary, ()),
            own=self._own.lease.prove,
        )
