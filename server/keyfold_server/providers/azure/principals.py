"""The principals of Azure that are in use, and how Keyfold shows its own side to be good.

Invariant: tokens are apart by principal and audience, connections by principal and origin, and
the number of both is bounded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from keyfold_server.domain.errors import KmsError
from keyfold_server.providers.azure.clients import Vault
from keyfold_server.providers.azure.clouds import Cloud
from keyfold_server.providers.azure.credentials import Credential
from keyfold_server.providers.azure.logins import Logins, Token, WithdrawnError
from keyfold_server.providers.azure.uri import Place

_T = TypeVar("_T")

MOST: Final = 256
"""Principals, and clients, that are kept; the least recently used one goes."""

_WITNESSES: Final = 3
"""Other principals that are asked whether Keyfold's own side is good."""


class _Bounded(Generic[_T]):
    """What was made, by name, the least recently used one last."""

    def __init__(self) -> None:
        self._made: OrderedDict[Hashable, _T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Hashable, make: Callable[[], _T]) -> _T:
        with self._lock:
            found = self._made.get(name)
            if found is None:
                found = self._made[name] = make()
                if len(self._made) > MOST:
                    self._made.popitem(last=False)
            self._made.move_to_end(name)
            return found

    def all(self) -> list[_T]:
        with self._lock:
            return list(self._made.values())


class Principals:
    """Credentials and clients by principal. Safe for many threads."""

    def __init__(
        self, logins: Logins, canary: str | None, ca: str | None, clock: Callable[[], float]
    ) -> None:
        """Prepares; asks nobody.

        Args:
            logins: How Keyfold logs in.
            canary: A principal of the vendor's own, `TENANT/CLIENT`, which nobody but the vendor
                can withdraw.
            ca: File of the certificates to trust; None takes what requests takes.
            clock: Monotonic seconds.
        """
        self._logins = logins
        self._canary = canary
        self._ca = ca
        self._clock = clock
        self._credentials: _Bounded[tuple[Cloud, Credential]] = _Bounded()
        self._vaults: _Bounded[Vault] = _Bounded()

    def credential(self, principal: str, place: Place) -> Credential:
        """Returns the tokens with which a principal, or the server itself, calls a place."""

        def make() -> tuple[Cloud, Credential]:
            def login() -> Token:
                if principal:
                    return self._logins.principal(principal, place)
                return self._logins.own(place)

            def shown_good(besides: Credential) -> bool:
                return self._shown_good(besides, place)

            return place.cloud, Credential(principal, login, shown_good, self._clock)

        return self._credentials.get((principal, place.audience), make)[1]

    def vault(self, principal: str, place: Place) -> Vault:
        """Returns the client with which a principal calls a place."""
        return self._vaults.get((principal, place.origin), lambda: Vault(place.origin, self._ca))

    def _shown_good(self, besides: Credential, place: Place) -> bool:
        """Tells whether Keyfold's own side is good now: its canary, else another principal.

        That its own identity can log in does not show that it may act as an application, so it
        decides only where nothing else can be asked.
        """
        try:
            if self._canary is not None:
                self._logins.principal(self._canary, place)
                return True
            witnesses = self._witnesses(besides, place.cloud)
            if witnesses:
                return any(each.probe() for each in witnesses)
            self._logins.own(place)
        except (KmsError, WithdrawnError):
            return False
        return True

    def _witnesses(self, besides: Credential, cloud: Cloud) -> list[Credential]:
        """Returns the cloud's other principals that were accepted, the latest first."""
        latest: dict[str, Credential] = {}
        for of, each in self._credentials.all():
            if of == cloud and each.name not in ("", besides.name) and each.accepted_at is not None:
                other = latest.get(each.name)
                if other is None or (other.accepted_at or 0.0) < each.accepted_at:
                    latest[each.name] = each
        ordered = sorted(latest.values(), key=lambda each: each.accepted_at or 0.0, reverse=True)
        return ordered[:_WITNESSES]
