"""The store's clock, held against this process's own: a step forward must not hide a replica.

The store's clock measures how long each replica has been silent (protocol R4). If somebody sets it
forward, a replica that serves seems to have stopped long ago. The time that passed here since the
last heartbeat shows the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlalchemy import Connection

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
    """Reads the store's clock."""

    def __init__(self, transactions: Transactions) -> None:
        """Takes the store's transactions."""
        self._transactions = transactions
        self._last: Reading | None = None

    def read(self, connection: Connection) -> Reading:
        """Reads the clock inside a transaction.

        A slow network does not look like a step: the answer may come late, so the span on this
        side counts from before the last question to after this answer.
        """
        clock = self._transactions.clock
        asked = clock.monotonic()
        now = self._transactions.now(connection)
        last = self._last
        if last is None or self._transactions.database.dialect.one_process:
            return Reading(now, stepped=False, asked=asked)
        passed = clock.monotonic() - last.asked
        return Reading(now, stepped=(now - last.now) / 1000 - passed > STEP, asked=asked)

    def heartbeat(self, reading: Reading) -> None:
        """Notes the time of a heartbeat that is committed, so that a step before it is recorded."""
        self._last = reading
