"""The principals of one provider that are in use, and whether Keyfold's own side is good.

A customer who withdraws trust in Keyfold's principal has revoked the key; a provider that stops
letting *Keyfold* act as anybody must not revoke every customer. Both look the same in one
customer's answer. So such an answer is the customer's refusal only if Keyfold's own side is shown
to be good since; otherwise it is CREDENTIALS_FAILED (protocol F2a). `Principals.shown_good` decides
for every provider, by these rules:

    the canary decides    Where the settings name a canary, a principal of the vendor's own that no
                          customer can withdraw, its login alone decides.
    else the witnesses    Else other principals of the same cloud that have been accepted log in
                          anew, the latest first, `WITNESSES` of them at most. One that succeeds is
                          enough. If none does, Keyfold's side is not shown good.
    a refused one is none A principal that was refused is not a witness until it is accepted again:
                          its owner, not Keyfold, took it away.
    else Keyfold itself   Only where nobody else can be asked, Keyfold's own credential decides,
                          which is got or used anew: that it is accepted does not show that it may
                          act as others.
    could not tell is no  Whatever cannot be asked, or not in the call's time, shows nothing.

Invariant: the number of principals that are kept is bounded. This module must not know any
provider.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from keyfold_server.domain.errors import KmsError
from keyfold_server.providers.shared.lease import Lease
from keyfold_server.providers.shared.logins import WithdrawnError

_T = TypeVar("_T")
_S = TypeVar("_S")
_C = TypeVar("_C")

MOST: Final = 256
"""Entries that are kept of a kind; the least recently used one goes."""

WITNESSES: Final = 3
"""Most other principals that are asked whether Keyfold's own side is good."""


class Bounded(Generic[_T]):
    """At most `MOST` things by name, each made on first use. Safe for many threads."""

    def __init__(self, gone: Callable[[_T], None] = lambda _: None) -> None:
        """Begins empty.

        Args:
            gone: Is called with what is not kept any more; callers may still be using it.
        """
        self._made: OrderedDict[Hashable, _T] = OrderedDict()
        self._gone = gone
        self._lock = threading.Lock()

    def get(self, name: Hashable, make: Callable[[], _T]) -> _T:
        """Returns the thing of a name, made where there is none."""
        dropped: list[_T] = []
        with self._lock:
            found = self._made.get(name)
            if found is None:
                found = self._made[name] = make()
                while len(self._made) > MOST:
                    dropped.append(self._made.popitem(last=False)[1])
            self._made.move_to_end(name)
        for each in dropped:
            self._gone(each)
        return found

    def all(self) -> list[_T]:
        """Returns everything that is kept."""
        with self._lock:
            return list(self._made.values())


class Leased(Protocol):
    """Whatever has a lease."""

    @property
    def lease(self) -> Lease[Any]:
        """The sessions of a principal."""
        ...


_P = TypeVar("_P", bound=Leased)


@dataclass(frozen=True, slots=True)
class Principal(Generic[_S, _C]):
    """A principal: its sessions, and the SDK's client that calls with them.

    Attributes:
        lease: The sessions.
        client: The client.
    """

    lease: Lease[_S]
    client: _C


class Principals(Bounded[_P]):
    """The principals in use, by whatever tells their sessions apart. Safe for many threads."""

    def shown_good(
        self,
        besides: Lease[Any],
        *,
        canary: Callable[[], object] | None,
        own: Callable[[], object],
    ) -> bool:
        """Tells whether Keyfold's own side is good now, by the rules above.

        Args:
            besides: The lease of the principal that was turned away.
            canary: Logs in as the canary; None where the settings name none.
            own: Gets or uses Keyfold's own credential anew. Both raise KmsError or
                `WithdrawnError` if that fails.
        """
        witnesses = [] if canary is not None else self._witnesses(besides)
        if witnesses:
            return any(lease.probe() for lease in witnesses)
        try:
            (canary or own)()
        except (KmsError, WithdrawnError):
            return False
        return True

    def _witnesses(self, besides: Lease[Any]) -> list[Lease[Any]]:
        """Returns other accepted principals of the same cloud, the latest accepted first."""
        latest: dict[str, tuple[float, Lease[Any]]] = {}
        for lease in (each.lease for each in self.all()):
            at = lease.accepted_at
            if at is None or lease.name in ("", besides.name) or lease.cloud != besides.cloud:
                continue
            if lease.name not in latest or latest[lease.name][0] < at:
                latest[lease.name] = (at, lease)
        ordered = sorted(latest.values(), key=lambda found: found[0], reverse=True)
        return [lease for _, lease in ordered[:WITNESSES]]
