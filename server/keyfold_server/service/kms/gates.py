"""Gates: what a call to a customer's KMS passes before it gets a thread (protocol W2, C4, F8).

Each root key and each account has a gate, which bounds how many calls run at once and how many
begin per second. A provider has only a rate, since its threads already bound its calls. So a
hanging KMS can occupy only a few threads, and one replica calls no KMS more often than the
settings allow. The gates do not know what is called.

Calls that prove a root key in use have slots and rates in reserve, which no other call can use up.
Otherwise one customer's calls would keep the replica from asking about another customer's key.

Calls of operations yield to all others. They take at most half of the slots and half of each rate,
and wait as long as any other call waits or the other half of the rate is in use. So a caller's cold
load finds a slot and a rate as if no operation ran.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, TypeAlias

from keyfold_server.domain.bounds import Rates
from keyfold_server.domain.errors import (
    NotAsked,
    OverloadedError,
    RateLimitedError,
    UnreachableError,
)
from keyfold_server.domain.ports import Clock
from keyfold_server.service.limits import Bucket

AT_ONCE_PER_KEY: Final = 4
"""Most calls that run at once for one root key, besides those of its reserve."""

AT_ONCE_PER_ACCOUNT: Final = 8
"""Most calls that run at once for one account, besides those of its reserve."""

PROOFS_AT_ONCE_PER_KEY: Final = 2
"""Slots that a root key has in reserve. Calls share its proofs, so one is enough until it hangs."""

PROOFS_AT_ONCE_PER_ACCOUNT: Final = 4
"""Slots that an account has in reserve. At 100 ms a call they prove 1,900 root keys in 48 s."""

PROOF_RATE_PER_KEY: Final = 2.0
"""Most calls per second that one root key can take from the reserve. A TTL of a second needs fewer.
So a customer with a shorter TTL cannot use up what other customers' proofs need."""

YIELDS: ContextVar[bool] = ContextVar("yields", default=False)
"""Whether the calls of a task yield to those of callers, because an operation makes them."""

SHARE: Final = 0.5
"""The largest part of the slots, and of each rate, that calls of operations may take."""

_LOOK: Final = 0.05
"""Seconds after which a call that yields looks again at whether it may go. It looks earlier if
another call that yields ends."""

WAITING: Final = 1_000
"""Most calls that may wait in one line at a gate; further ones are refused."""

_KEPT: Final = 1_000
"""Gates that exist before the first removal of unused ones."""


_Name: TypeAlias = tuple[str, ...]
"""The name of a gate."""


class _Line:
    """A number of slots, and a count of the calls that hold or await one.

    Attributes:
        yielding: How many of these calls yield to the others.
    """

    __slots__ = ("at_once", "slots", "users", "yielding")

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.slots = asyncio.Semaphore(at_once)
        self.users = 0
        self.yielding = 0

    @property
    def full(self) -> bool:
        return self.users >= self.at_once + WAITING

    @property
    def leisure(self) -> bool:
        """Whether a call that yields may take a slot: nobody waits for one."""
        return self.users < self.at_once and self.yielding < self.at_once * SHARE


class _Rate:
    """A rate of calls, and its reserve for proofs: no other call uses that up."""

    __slots__ = ("calls", "reserve", "what", "yielding")

    def __init__(self, what: str, rate: float, reserve: float, now: float) -> None:
        self.what = what
        self.calls = Bucket(rate, now)
        self.reserve = Bucket(reserve, now)
        self.yielding = Bucket(max(1.0, rate * SHARE), now)

    def leisure(self, now: float) -> bool:
        """Says whether a call that yields may count against the rate now.

        It may not while callers would find less of the rate than the part that is theirs.
        """
        return not self.yielding.wait(now) and self.calls.level(now) >= self.calls.rate * SHARE


class _Gate:
    """A rate, a line for proofs and one for all other calls, and when the KMS last answered."""

    __slots__ = ("answered", "other", "proofs", "rate")

    def __init__(self, rate: _Rate, at_once: int, proofs_at_once: int) -> None:
        self.rate = rate
        self.proofs = _Line(proofs_at_once)
        self.other = _Line(at_once)
        self.answered = float("-inf")

    @property
    def users(self) -> int:
        return self.proofs.users + self.other.users

    def unused(self, now: float) -> bool:
        rate = self.rate
        unused = rate.calls.full(now) and rate.reserve.full(now) and rate.yielding.full(now)
        return not self.users and unused


class Permit:
    """One call's slots at its gates: acquired before the call, released when its thread ends."""

    def __init__(
        self,
        gates: list[_Gate],
        pause: float,
        clock: Clock,
        *,
        proof: bool,
        left: Callable[[], None] | None = None,
    ) -> None:
        """Joins the line at every gate.

        Args:
            gates: The call's gates, in the order in which it acquires their slots.
            pause: Seconds that the call must first wait to keep to the rates.
            clock: Monotonic time.
            proof: Whether the call proves a root key in use.
            left: For a call that yields: called once the call has left the lines.
        """
        self._gates = gates
        self._left = left
        self._lines = [gate.proofs if proof else gate.other for gate in gates]
        self._held: list[_Line] = []
        self._pause = pause
        self._clock = clock
        self._proof = proof
        self._entered = clock.monotonic()
        for line in self._lines:
            line.users += 1
            line.yielding += left is not None

    async def acquire(self) -> None:
        """Waits until the call may be made. Call `release` even after giving up this wait."""
        # Before a slot is taken: a call that waits for a rate must not block the account.
        if self._pause:
            await asyncio.sleep(self._pause)
        for line in self._lines:
            await line.slots.acquire()
            self._held.append(line)

    def refused(self) -> NotAsked | UnreachableError:
        """Returns the error of a call that waited for a slot until its time was up.

        A proof that waited behind calls of which the KMS answered none could not be asked. Where
        the KMS did answer, or the call is no proof, only Keyfold's own limit held it up (F8).
        """
        gate = self._gates[min(len(self._held), len(self._gates) - 1)]
        if self._proof and gate.answered < self._entered:
            return UnreachableError(
                f"the KMS answered no call to this {gate.rate.what} while this one waited; "
                "try again"
            )
        return OverloadedError(
            "too many calls to this root key or account are under way; try again", retry_after=1.0
        )

    def release(self) -> None:
        """Gives the slots back and leaves every line."""
        for held in self._held:
            held.slots.release()
        for line in self._lines:
            line.users -= 1
            line.yielding -= self._left is not None
        if self._left is not None:
            self._left()

    def ended(self, error: BaseException | None) -> None:
        """Releases the slots after the call, and remembers whether the KMS answered it.

        Args:
            error: What the call raised, or None.
        """
        if not isinstance(error, UnreachableError | OverloadedError):
            for gate in self._gates:
                gate.answered = self._clock.monotonic()
        self.release()


class Gates:
    """The gates of all root keys and accounts, and the rates of all providers."""

    def __init__(self, rates: Rates, clock: Clock) -> None:
        """Starts without gates; each is made for the first call that needs it."""
        self._rates = rates
        self._clock = clock
        self._gates: dict[tuple[str, ...], _Gate] = {}
        self._providers: dict[str, _Rate] = {}
        self._look_at = _KEPT
        self._waiting: dict[asyncio.Future[Permit], tuple[_Name, _Name, str]] = {}

    async def leisure(self, key: _Name, account: _Name, type_: str) -> Permit:
        """Waits until a call that yields may go, however long that takes, and joins the lines.

        The arguments are those of `enter`.
        """
        permit = self._at_leisure(key, account, type_)
        while permit is None:
            waiting: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
            self._waiting[waiting] = key, account, type_
            try:
                await asyncio.wait({waiting}, timeout=_LOOK)
            except BaseException:
                if waiting.done():
                    waiting.result().release()
                raise
            finally:
                del self._waiting[waiting]
            permit = waiting.result() if waiting.done() else self._at_leisure(key, account, type_)
        return permit

    def _at_leisure(self, key: _Name, account: _Name, type_: str) -> Permit | None:
        """Joins the lines for a call that yields, if it may go now. It does not await."""
        now = self._clock.monotonic()
        self._forget(now)
        gates = [self._key(key, now), self._account(account, now)]
        rates = [*(gate.rate for gate in gates), self._provider(type_, now)]
        if not (all(g.other.leisure for g in gates) and all(r.leisure(now) for r in rates)):
            return None
        for rate in rates:
            rate.calls.take(now)
            rate.yielding.take(now)
        return Permit(gates, 0.0, self._clock, proof=False, left=self._one_left)

    def _one_left(self) -> None:
        """Lets the first of those go that may, now that a call that yields has left the lines.

        To wake all of them would cost more than their calls, where many wait for one account.
        """
        for waiting, wanted in self._waiting.items():
            if not waiting.done():
                permit = self._at_leisure(*wanted)
                if permit is not None:
                    waiting.set_result(permit)
                    return

    def enter(
        self,
        key: tuple[str, ...],
        account: tuple[str, ...],
        type_: str,
        patience: float,
        *,
        proof: bool = False,
    ) -> Permit:
        """Joins the line at each gate, or at none.

        Args:
            key: The name of the root key's gate.
            account: The name of its account's gate.
            type_: The provider's type.
            patience: Most seconds that the call can wait for the rates.
            proof: Whether the call proves a root key in use, and so may use the reserve.

        Raises:
            OverloadedError: A line is too long.
            RateLimitedError: To keep to the rates, the call would have to wait longer.
        """
        now = self._clock.monotonic()
        self._forget(now)
        gates = [self._key(key, now), self._account(account, now)]
        if any((gate.proofs if proof else gate.other).full for gate in gates):
            raise OverloadedError(
                "too many calls wait for this root key or account; try again", retry_after=1.0
            )
        rates = [*(gate.rate for gate in gates), self._provider(type_, now)]
        pause = _wait_for(rates, now, patience, proof=proof)
        return Permit(gates, pause, self._clock, proof=proof)

    def _key(self, name: tuple[str, ...], now: float) -> _Gate:
        gate = self._gates.get(("key", *name))
        if gate is None:
            rate = self._rates.per_key
            limit = _Rate("root key", rate, min(rate, PROOF_RATE_PER_KEY), now)
            gate = _Gate(limit, AT_ONCE_PER_KEY, PROOFS_AT_ONCE_PER_KEY)
            self._gates["key", *name] = gate
        return gate

    def _account(self, name: tuple[str, ...], now: float) -> _Gate:
        gate = self._gates.get(("account", *name))
        if gate is None:
            rate = self._rates.per_account
            limit = _Rate("account", rate, rate, now)
            gate = _Gate(limit, AT_ONCE_PER_ACCOUNT, PROOFS_AT_ONCE_PER_ACCOUNT)
            self._gates["account", *name] = gate
        return gate

    def _provider(self, type_: str, now: float) -> _Rate:
        rate = self._providers.get(type_)
        if rate is None:
            most = self._rates.per_provider
            rate = self._providers[type_] = _Rate("provider", most, most, now)
        return rate

    def _forget(self, now: float) -> None:
        """Removes unused gates, whenever their number has doubled since the last removal."""
        if len(self._gates) < self._look_at:
            return
        self._gates = {name: gate for name, gate in self._gates.items() if not gate.unused(now)}
        self._look_at = max(_KEPT, 2 * len(self._gates))


def _wait_for(rates: list[_Rate], now: float, patience: float, *, proof: bool) -> float:
    """Counts a call against its rates, and returns the seconds that it must wait for them.

    A proof that other calls hold up takes from the reserve. It counts among the other calls, too,
    so that those wait for it and not it for them.

    Raises:
        RateLimitedError: The call would have to wait longer than its patience.
    """
    slowest = max(rates, key=lambda rate: rate.calls.wait(now))
    pause, reserved = slowest.calls.wait(now), False
    if proof and pause:
        other = max(rates, key=lambda rate: rate.reserve.wait(now))
        if other.reserve.wait(now) < pause:
            slowest, pause, reserved = other, other.reserve.wait(now), True
    if pause > patience:
        raise RateLimitedError(
            f"this {slowest.what} gets more than {slowest.calls.rate:g} calls a second; "
            + ("the key cannot be checked with its KMS now; try again" if proof else "slow down"),
            retry_after=pause,
        )
    for rate in rates:
        rate.calls.take(now)
        if reserved:
            rate.reserve.take(now)
    return pause
