"""The path from a server to its store, which a test can redirect, and a primary with a standby."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Final

import postgres
from proxy import Proxy, Way

_WAIT: Final = 20.0
"""Seconds after which PostgreSQL itself counts as broken."""


class Network(Proxy):
    """A server's path to the store; in production, a name or an address that moves."""

    def lead(self, port: int) -> None:
        """Leads the path to another port and cuts off the open connections."""
        self.set(Way.DROP)
        self._server = ("127.0.0.1", port)
        self.set(Way.PASS)


class Pair:
    """A primary and the standby that follows it.

    Attributes:
        primary: The server that was the primary from the beginning.
        standby: Its standby.
    """

    def __init__(self, primary: postgres.Server, *, synchronous: bool) -> None:
        """Adds a standby to a primary.

        Args:
            primary: A running server.
            synchronous: Whether each commit on the primary waits for the standby.
        """
        self.primary = primary
        self.standby = primary.standby()
        if synchronous:
            primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.run("SELECT pg_reload_conf()")
        wanted = "sync" if synchronous else "async"
        _until(lambda: self._state() == wanted)

    def _state(self) -> str:
        rows = self.primary.run("SELECT sync_state FROM pg_stat_replication")
        return str(rows[0][0]) if rows else ""

    def part(self) -> None:
        """Cuts the standby off; it has everything that was committed before this call."""
        ((there,),) = self.primary.run("SELECT pg_current_wal_lsn()")
        # Asks the standby: without a message from the primary it would request one more.
        received = f"SELECT pg_last_wal_receive_lsn() >= '{there}'"
        _until(lambda: self.standby.run(received) == [(True,)])
        self.standby.run("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.run("SELECT pg_reload_conf()")
        _until(lambda: not self.standby.run("SELECT 1 FROM pg_stat_wal_receiver"))

    def stop_primary(self) -> None:
        """Ends the primary as `pg_ctl stop -m immediate` does."""
        self.primary.stop(signal.SIGQUIT)

    def close(self) -> None:
        """Ends both."""
        self.primary.destroy()
        self.standby.destroy()


def _until(done: Callable[[], bool]) -> None:
    ends = time.monotonic() + _WAIT
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.02)
