"""Gates: what a call to a customer's KMS passes before it gets a thread (protocol W2, C4).

Each root key and each account has a gate, which bounds how many calls run at once and how many
begin per second. A provider has only a rate, since its threads already bound its calls. So a
hanging KMS can occupy only a few threads, and one replica calls no KMS more often than the
settings allow. The gates do not know what is called.
"""

from __future__ import annotations

import asyncio
from typing import Final

from keyfold_server.domain.bounds import Rates
from keyfold_server.domain.errors import OverloadedError, RateLimitedError
from keyfold_server.domain.ports import Clock
from keyfold_server.service.limits import Bucket

AT_ONCE_PER_KEY: Final = 4
"""Most calls that run at once for one root key."""

AT_ONCE_PER_ACCOUNT: Final = 8
"""Most calls that run at once for one account: an eighth of its provider's threads."""

WAITING: Final = 1_000
"""Most calls that may wait at one gate; further ones are refused."""

_KEPT: Final = 1_000
"""Gates that exist before the first removal of unused ones."""


class _Gate:
    """A number of slots, a count of the calls that hold or await one, and a rate."""

    __slots__ = ("at_once", "bucket", "slots", "users", "what")

    def __init__(self, what: str, at_once: int, rate: float, now: float) -> None:
        self.what = what
        self.at_once = at_once
        self.slots = asyncio.Semaphore(at_once)
        self.users = 0
        self.bucket = Bucket(rate, now)


class Permit:
    """One call's slots at its gates: acquired before the call, released when its thread ends."""

    def __init__(self, gates: list[_Gate], pause: float) -> None:
        """Joins the line at every gate.

        Args:
            gates: The call's gates, in the order in which it acquires their slots.
            pause: Seconds that the call must first wait to keep to the rates.
        """
        self._gates = gates
        self._held: list[_Gate] = []
        self._pause = pause
        for gate in gates:
            gate.users += 1

    async def acquire(self) -> None:
        """Waits until the call may be made. Call `release` even after giving up this wait."""
        # Before a slot is taken: a call that waits for a rate must not block the account.
        if self._pause:
            await asyncio.sleep(self._pause)
        for gate in self._gates:
            await gate.slots.acquire()
            self._held.append(gate)

    def release(self) -> None:
        """Gives the slots back and leaves every line."""
        for gate in self._held:
            gate.slots.release()
        for gate in self._gates:
            gate.users -= 1


class Gates:
    """The gates of all root keys and accounts, and the rates of all providers."""

    def __init__(self, rates: Rates, clock: Clock) -> None:
        """Starts without gates; each is made for the first call that needs it."""
        self._rates = rates
        self._clock = clock
        self._gates: dict[tuple[str, ...], _Gate] = {}
        self._providers: dict[str, Bucket] = {}
        self._look_at = _KEPT

    def enter(
        self, key: tuple[str, ...], account: tuple[str, ...], type_: str, patience: float
    ) -> Permit:
        """Joins the line at each gate, or at none.

        Args:
            key: The name of the root key's gate.
            account: The name of its account's gate.
            type_: The provider's type.
            patience: Most seconds that the call can wait for the rates.

        Raises:
            OverloadedError: A line is too long.
            RateLimitedError: To keep to the rates, the call would have to wait longer.
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
                f"this {what} gets more than {bucket.rate:g} calls a second; slow down",
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
        """Removes unused gates, whenever their number has doubled since the last removal."""
        if len(self._gates) < self._look_at:
            return
        self._gates = {
            name: gate
            for name, gate in self._gates.items()
            if gate.users or not gate.bucket.full(now)
        }
        self._look_at = max(_KEPT, 2 * len(self._gates))
