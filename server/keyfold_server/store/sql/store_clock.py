"""The store's clock, held against this process's own: a step forward must not hide a replica.

The store's clock measures how long each replica has been silent (protocol R4). If somebody sets it
forward, a replica that serves seems to have stopped long ago. The time that passed here since the
last heartbeat shows the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keyfold_server.domain.ports import SLOW_CLOCK

if TYPE_CHECKING:
    from keyfold_server.store.sql.transactions import Transactions

STEP: Final = 1.0
"""Seconds by which the store's clock must be ahead before that counts as a step."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the store's clock.

    Attributes:
        now: Milliseconds of Unix time, by the store's clock.
        stepped: Whether somebody has set that clock forward since this process's last heartbeat.
        asked: Monotonic seconds at which this process asked for the time.
    """

    now: int
    stepped: bool
    asked: float


class StoreClock:
    """Judges what the store's clock shows."""

    def __init__(self, transactions: Transactions) -> None:
        """Takes the store's transactions."""
        self._transactions = transactions
        self._last: Reading | None = None

    def asked(self) -> float:
        """Returns the present moment, for a question that is about to go to the store."""
        return self._transactions.clock.monotonic()

    def reading(self, asked: float, now: int) -> Reading:
        """Returns what an answer shows that has just come.

        A slow network does not look like a step: the answer may come late, so the span on this
        side counts from before the last question to after this answer.

        Args:
            asked: Monotonic seconds at which this process asked for the time.
            now: Milliseconds of Unix time in the answer.
        """
        last = self._last
        if last is None or self._transactions.database.dialect.one_process:
            return Reading(now, stepped=False, asked=asked)
        passed = self._transactions.clock.monotonic() - last.asked
        return Reading(now, stepped=(now - last.now) / 1000 - passed > STEP, asked=asked)

    def predicted(self, asked: float) -> int:
        """Returns the store's time for a heartbeat that is about to go there (protocol S13).

        It is never before the time at which the heartbeat begins, unless somebody sets the clock
        forward: the last answer was written after its question, and the span counts from the
        question. So nobody takes the replica for silent longer than it is.

        Args:
            asked: Monotonic seconds at which the heartbeat begins.
        """
        transactions = self._transactions
        if transactions.database.dialect.one_process:
            return int(transactions.clock.wall() * 1000)
        last = self._last
        if last is None:
            return transactions.follow_poll(lambda unit: unit.now)
        # This process's clock may run slow.
        return last.now + math.ceil((asked - last.asked) * 1000 * (1 + SLOW_CLOCK))

    def heartbeat(self, reading: Reading) -> None:
        """Notes the time of a heartbeat that is committed, so that a step before it is recorded."""
        self._last = reading
