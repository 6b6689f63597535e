"""A connection to PostgreSQL whose waits end.

The server's own timeouts end what the server is busy with. A server that is paused, or a network
that swallows everything, is noticed only here.
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

_T = TypeVar("_T")


class NoAnswerError(OperationalError, TimeoutError):
    """The server did not answer in time; the connection was given up."""


class BoundedSession(Connection[TupleRow]):
    """A connection that is given up when its time has come.

    Attributes:
        ends: Monotonic seconds at which a wait ends, or None.
    """

    ends: float | None = None
    _warned = False

    def watch(self) -> None:
        """Begins to look at what the server says beside its answers."""
        self.add_notice_handler(self._on_notice)

    def commit(self) -> None:
        """Commits, and believes it only where the server has nothing to add.

        A wait for a synchronous standby that somebody cancelled is answered with success and a
        warning: it is on this server alone, and a failover may take it back (protocol S2).

        Raises:
            NoAnswerError: The server warned, so it is not known whether the change will stay.
        """
        self._warned = False
        super().commit()
        if self._warned:
            self.pgconn.finish()
            raise NoAnswerError("the commit may not have been replicated")

    def _on_notice(self, notice: Diagnostic) -> None:
        self._warned = self._warned or notice.sqlstate == _WARNING

    def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        """Waits as long as it may.

        Raises:
            NoAnswerError: The time has come.
        """
        if self.ends is None or timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, max(0.0, self.ends - time.monotonic()))
        except OperationalError as error:
            if time.monotonic() < self.ends:
                raise
            # Whatever the server still sends belongs to nobody.
            self.pgconn.finish()
            raise NoAnswerError("the server did not answer in time") from error
