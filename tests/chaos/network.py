"""The way from a server to its store, which can be led elsewhere, and a primary with a standby."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Final

import postgres
from proxy import Proxy, Way

_WAIT: Final = 20.0
"""Seconds after which PostgreSQL itself is broken."""


class Network(Proxy):
    """A server's way to the store; in service, a name or an address that is moved."""

    def lead(self, port: int) -> None:
        """Leads it to another port; who is connected is cut off."""
        self.set(Way.DROP)
        self._server = ("127.0.0.1", port)
        self.set(Way.PASS)


class Pair:
    """A primary and the standby that follows it.

    Attributes:
        primary: Which was the primary from the beginning.
        standby: Its standby.
    """

    def __init__(self, primary: postgres.Server, *, synchronous: bool) -> None:
        """Adds a standby to a primary.

        Args:
            primary: A server that runs.
            synchronous: Whether the primary waits for the standby with each commit.
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
        """Cuts the standby off; it has everything that was committed before this was called."""
        ((there,),) = self.primary.run("SELECT pg_current_wal_lsn()")
        # Its own words: without a word from the primary it would ask for one more.
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
