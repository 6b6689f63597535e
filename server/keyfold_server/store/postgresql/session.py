"""A connection to PostgreSQL whose every wait ends.

The server's own timeouts end work that keeps the server busy. Only this side notices a server that
is paused, or a network that swallows everything.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

from psycopg import Connection, OperationalError
from psycopg.errors import Diagnostic
from psycopg.rows import TupleRow

if TYPE_CHECKING:
    from psycopg.abc import PQGen

_WARNING: Final = "01000"
"""SQLSTATE of a warning."""

_T = TypeVar("_T")


class NoAnswerError(OperationalError, TimeoutError):
    """The server did not answer in time, and this side gave up the connection."""


class BoundedSession(Connection[TupleRow]):
    """A connection that this side gives up at a deadline.

    Attributes:
        ends: The deadline in monotonic seconds, or None.
    """

    ends: float | None = None
    _warned = False

    def watch(self) -> None:
        """Starts to listen for the server's warnings."""
        self.add_notice_handler(self._on_notice)

    def commit(self) -> None:
        """Commits, and accepts a success only without a warning.

        If somebody cancels the wait for a synchronous standby, the server reports success and a
        warning. The change is then on this server alone, and a failover may take it back
        (protocol S2).

        Raises:
            NoAnswerError: The server warned, so the change may not stay.
        """
        self._warned = False
        super().commit()
        if self._warned:
            self.pgconn.finish()
            raise NoAnswerError("the commit may not have been replicated")

    def _on_notice(self, notice: Diagnostic) -> None:
        self._warned = self._warned or notice.sqlstate == _WARNING

    def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        """Waits until the deadline at most.

        Raises:
            NoAnswerError: The deadline has passed.
        """
        if self.ends is None or timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, max(0.0, self.ends - time.monotonic()))
        except OperationalError as error:
            if time.monotonic() < self.ends:
                raise
            # No transaction is left to take what the server may still send.
            self.pgconn.finish()
            raise NoAnswerError("the server did not answer in time") from error
