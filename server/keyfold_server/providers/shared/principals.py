"""The principals of one provider that are in use, and whether Keyfold's own side is good.

A provider denies Keyfold a principal for one of two reasons. The customer withdrew their trust,
which revokes the customer's key; or Keyfold's own side broke, which must not revoke anybody's key.
One customer's answer does not tell which. So the denial is the customer's refusal only if Keyfold's
own side is shown to be good since; otherwise it is CREDENTIALS_FAILED (protocol F2a).
`Principals.shown_good` decides that for every provider, by these rules:

    canary          If the settings name a canary, a principal of the vendor's own that no customer
                    can withdraw, its login alone decides.
    witnesses       Otherwise up to `WITNESSES` other principals of the same cloud log in anew, the
                    latest accepted first. One success is enough. If all of them fail, Keyfold's
                    own side is not shown to be good.
    refused before  A principal that was refused is not a witness until it is accepted again. Its
                    owner withdrew it, so its failure says nothing about Keyfold.
    Keyfold itself  If there is no witness either, Keyfold's own credential decides, got or used
                    anew. It comes last, since it may be good and still not act as others.
    could not tell  A login that gets no answer in the call's time counts as a failure.

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
"""Most entries that a `Bounded` keeps; it drops the least recently used one."""

WITNESSES: Final = 3
"""Most witnesses that log in to show that Keyfold's own side is good."""


class Bounded(Generic[_T]):
    """Keeps at most `MOST` things by name, each made on first use. Safe for many threads."""

    def __init__(self, gone: Callable[[_T], None] = lambda _: None) -> None:
        """Begins empty.

        Args:
            gone: Takes each thing that is dropped; callers may still be using it.
        """
        self._made: OrderedDict[Hashable, _T] = OrderedDict()
        self._gone = gone
        self._lock = threading.Lock()

    def get(self, name: Hashable, make: Callable[[], _T]) -> _T:
        """Returns the thing of a name, and makes it first if it does not exist."""
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
    """Anything that has a lease."""

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
    """The principals in use, by all that tells their sessions apart. Safe for many threads."""

    def shown_good(
        self,
        besides: Lease[Any],
        *,
        canary: Callable[[], object] | None,
        own: Callable[[], object],
    ) -> bool:
        """Tells whether Keyfold's own side is good now, by the rules above.

        `canary` and `own` raise KmsError or `WithdrawnError` if they fail.

        Args:
            besides: The lease of the principal that the provider denied.
            canary: Logs in as the canary; None if the settings do not name one.
            own: Gets or uses Keyfold's own credential anew.
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
