"""Gates: what a call to a customer's KMS passes before it gets a thread (protocol W2, C4).

A gate per root key and one per account have places for what is under way at once and a rate of
calls a second; a provider has a rate alone, since its threads are its places. One customer's
hanging KMS so holds a few threads and no more, and no customer's KMS hears from one replica more
often than the settings say. Knows nothing of what is called.
"""

from __future__ import annotations

import asyncio
from typing import Final

from keyfold_server.domain.bounds import Rates
from keyfold_server.domain.errors import OverloadedError, RateLimitedError
from keyfold_server.domain.ports import Clock
from keyfold_server.service.limits import Bucket

AT_ONCE_PER_KEY: Final = 4
"""Calls under way for one root key."""

AT_ONCE_PER_ACCOUNT: Final = 8
"""Calls under way for one account: an eighth of its provider's threads."""

WAITING: Final = 1_000
"""Calls that may wait at one gate before further ones are turned away."""

_KEPT: Final = 1_000
"""Gates that are kept before those are looked for that nobody needs."""


class _Gate:
    """A number of places, how many calls have one or wait for one, and a rate."""

    __slots__ = ("at_once", "bucket", "places", "users", "what")

    def __init__(self, what: str, at_once: int, rate: float, now: float) -> None:
        self.what = what
        self.at_once = at_once
        self.places = asyncio.Semaphore(at_once)
        self.users = 0
        self.bucket = Bucket(rate, now)


class Permit:
    """One call's way through its gates."""

    def __init__(self, gates: list[_Gate], pause: float) -> None:
        """Stands in line at every gate; `pause` is the seconds that the rates ask for."""
        self._gates = gates
        self._held: list[_Gate] = []
        self._pause = pause
        for gate in gates:
            gate.users += 1

    async def acquire(self) -> None:
        """Returns once the call may be made; whoever gives up calls `release` all the same."""
        # Before a place is taken: whoever waits for the rate keeps nobody from the account.
        if self._pause:
            await asyncio.sleep(self._pause)
        for gate in self._gates:
            await gate.places.acquire()
            self._held.append(gate)

    def release(self) -> None:
        """Gives the places back."""
        for gate in self._held:
            gate.places.release()
        for gate in self._gates:
            gate.users -= 1


class Gates:
    """The gates of all root keys and accounts, and the rates of all providers."""

    def __init__(self, rates: Rates, clock: Clock) -> None:
        """Takes the rates, and monotonic time."""
        self._rates = rates
        self._clock = clock
        self._gates: dict[tuple[str, ...], _Gate] = {}
        self._providers: dict[str, Bucket] = {}
        self._look_at = _KEPT

    @property
    def in_use(self) -> int:
        """How many places in lines are taken."""
        return sum(gate.users for gate in self._gates.values())

    def enter(
        self, key: tuple[str, ...], account: tuple[str, ...], type_: str, patience: float
    ) -> Permit:
        """Stands in line at each gate, or at none.

        Args:
            key: The root key's name.
            account: Its account's.
            type_: Its provider's type.
            patience: Seconds that the call can wait for the rates.

        Raises:
            OverloadedError: A line is too long.
            RateLimitedError: The rates would have it wait for longer.
        """
        now = self._clock.monotonic()
        self._forget(now)
        gates = [
            self._gate(("key", *key), "root key", AT_ONCE_PER_KEY, self._rates.per_key, now),
            self._gate(
                ("account", *account), "account", AT_ONCE_PER_ACCOUNT, self._rates.per_account, now
            ),
        ]
        if any(gate.users >= gate.at_once + WAITING for gate in gates):
            raise OverloadedError(
                "too many calls wait for this root key or account; try again", retry_after=1.0
            )
        provider = self._providers.get(type_)
        if provider is None:
            provider = self._providers[type_] = Bucket(self._rates.per_provider, now)
        rates = [(gate.bucket, gate.what) for gate in gates] + [(provider, "provider")]
        pause, bucket, what = max(
            ((bucket.wait(now), bucket, what) for bucket, what in rates), key=lambda each: each[0]
        )
        if pause > patience:
            raise RateLimitedError(
                f"this {what} is asked more than {bucket.rate:g} times a second; slow down",
                retry_after=pause,
            )
        for bucket, _ in rates:
            bucket.take(now)
        return Permit(gates, pause)

    def _gate(
        self, name: tuple[str, ...], what: str, at_once: int, rate: float, now: float
    ) -> _Gate:
        gate = self._gates.get(name)
        if gate is None:
            gate = self._gates[name] = _Gate(what, at_once, rate, now)
        return gate

    def _forget(self, now: float) -> None:
        """Forgets gates that nobody needs, once they have doubled in number since the last time."""
        if len(self._gates) < self._look_at:
            return
        self._gates = {
            name: gate
            for name, gate in self._gates.items()
            if gate.users or not gate.bucket.full(now)
        }
        self._look_at = max(_KEPT, 2 * len(self._gates))
