"""The principals of Google Cloud that are in use, and how Keyfold shows its own side to be good.

Invariant: a principal's channel is its own, and the number of principals that are kept is bounded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc

from keyfold_server.domain.errors import KmsError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.providers.gcp.clients import Client
from keyfold_server.providers.gcp.credentials import Held, Own, under
from keyfold_server.providers.gcp.http import Sender
from keyfold_server.providers.gcp.impersonation import DeniedError, Impersonated, generate
from keyfold_server.providers.gcp.uri import delegates

MOST: Final = 256
"""Service accounts whose tokens and connections are kept; the least recently used one goes."""

_WITNESSES: Final = 3
"""Other accounts that are asked whether Keyfold's own side is good."""


class Principal:
    """A credential with the client that calls under it.

    Attributes:
        credential: What calls are made under.
        client: The client.
    """

    __slots__ = ("client", "credential")

    def __init__(self, credential: Held, client: Client) -> None:
        """Joins them."""
        self.credential = credential
        self.client = client


class Principals:
    """Principals by service account and delegates. Safe for many threads."""

    def __init__(
        self,
        target: str,
        iam: str,
        ca: Path | None,
        canary: str | None,
        clock: Callable[[], float],
    ) -> None:
        """Prepares; asks nobody.

        Args:
            target: Host and port of Cloud KMS.
            iam: Address of IAM's credentials service.
            ca: File of the certificates to trust, None for the SDK's own.
            canary: A service account of the vendor's that shows Keyfold's own side to be good.
            clock: Monotonic seconds.
        """
        self._target = target
        self._iam = iam
        self._tls = grpc.ssl_channel_credentials(None if ca is None else ca.read_bytes())
        self._sender = Sender(None if ca is None else str(ca))
        self._canary = canary
        self._clock = clock
        self._lock = threading.Lock()
        self._own = Own(self._sender, clock)
        self._itself = Principal(self._own, Client(target, self._tls))
        self._others: OrderedDict[tuple[str, tuple[str, ...]], Principal] = OrderedDict()

    def of(self, key: RootKey) -> Principal:
        """Returns as whom a root key is used."""
        if not key.principal:
            return self._itself
        name = (key.principal, delegates(key))
        gone: Principal | None = None
        with self._lock:
            principal = self._others.get(name)
            if principal is None:
                principal = self._others[name] = self._account(*name)
                if len(self._others) > MOST:
                    _, gone = self._others.popitem(last=False)
            self._others.move_to_end(name)
        if gone is not None:
            gone.client.close()
        return principal

    def _account(self, email: str, through: tuple[str, ...]) -> Principal:
        account = Impersonated(
            email, lambda: self._generate(email, through), self._shown_good, self._clock
        )
        return Principal(account, Client(self._target, self._tls))

    def _generate(self, email: str, through: tuple[str, ...]) -> str:
        return under(self._own, lambda own: generate(self._sender, self._iam, email, through, own))

    def _shown_good(self, besides: Impersonated) -> bool:
        """Tells whether Keyfold's own side is good now: its canary, else another account, else it.

        Our own credential is got anew in each case. That it is accepted does not show that it may
        impersonate, so it decides alone only where nothing else can be asked.
        """
        try:
            self._own.prove()
            if self._canary is not None:
                self._generate(self._canary, ())
                return True
        except (KmsError, DeniedError):
            return False
        witnesses = self._witnesses(besides)
        return not witnesses or any(account.probe() for account in witnesses)

    def _witnesses(self, besides: Impersonated) -> list[Impersonated]:
        """Returns the other accounts that were impersonated, the latest first."""
        with self._lock:
            held = [each.credential for each in self._others.values()]
        taken = {
            account.email: (account.taken_at, account)
            for account in held
            if isinstance(account, Impersonated)
            and account.email != besides.email
            and account.taken_at is not None
        }
        latest = sorted(taken.values(), key=lambda t: t[0], reverse=True)
        return [account for _, account in latest[:_WITNESSES]]
