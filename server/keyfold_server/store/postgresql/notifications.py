"""Notifications: hearing at once that something changed, where the database can say so.

A hint and no more: a notification may come without need and may be missed. Whoever listens looks
for itself, and looks without being told, too (protocol S1, W3).
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from psycopg import Error, sql

from keyfold_server.domain.errors import StoreUnavailableError
from keyfold_server.store.database.dialect import CHANNEL
from keyfold_server.store.sql.failpoints import no_failpoint
from keyfold_server.store.sql.store import SqlStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyfold_server.domain.ports import Clock
    from keyfold_server.store.database.engine import Database
    from keyfold_server.store.postgresql.session import BoundedSession
    from keyfold_server.store.seal import Seal

log = logging.getLogger(__name__)

_LISTEN: Final = sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL))

_LOOK: Final = 0.5
"""Seconds between two looks at whether to stop."""

_PROBE: Final = 15.0
"""Seconds of silence after which the connection is tried: it may have ended unheard."""

_ANSWER: Final = 5.0
_SHORTEST: Final = 0.5
_LONGEST: Final = 30.0


class Listener:
    """A thread with a connection of its own, which it renews by itself."""

    def __init__(
        self, connect: Callable[[], BoundedSession], on_change: Callable[[], None]
    ) -> None:
        """Starts to listen.

        Args:
            connect: Opens a connection.
            on_change: Called after a change, and after each time that one may have been missed.
        """
        self._connect = connect
        self._on_change = on_change
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; waits for it, unless it is connecting."""
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_LOOK * 4)

    def _run(self) -> None:
        pause = _SHORTEST
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self._listen()
            except (Error, StoreUnavailableError) as error:
                # The type alone: a driver's text is not ours to print.
                log.info("notifications of the store ended: %s", type(error).__name__)
            except Exception:
                log.exception("notifications of the store ended unexpectedly")
            if time.monotonic() - began > _LONGEST:
                pause = _SHORTEST
            self._ended.wait(pause)
            pause = min(pause * 2, _LONGEST)

    def _listen(self) -> None:
        with self._connect() as connection:
            connection.ends = time.monotonic() + _ANSWER
            connection.execute(_LISTEN)
            # What happened before nobody was told.
            self._on_change()
            probed = time.monotonic()
            while not self._ended.is_set():
                heard = any(connection.notifies(timeout=_LOOK, stop_after=1))
                now = time.monotonic()
                if heard:
                    self._on_change()
                    probed = now
                elif now - probed > _PROBE:
                    connection.ends = now + _ANSWER
                    connection.execute("SELECT 1")
                    probed = now


class NotifyingStore(SqlStore):
    """A store that is a `domain.ports.Notifies`, too."""

    def __init__(
        self,
        database: Database,
        seal: Seal,
        connect: Callable[[], BoundedSession],
        *,
        clock: Clock,
        reach: Callable[[str], None] = no_failpoint,
    ) -> None:
        """Takes what a SqlStore takes, and what opens a connection to listen on."""
        super().__init__(database, seal, clock=clock, reach=reach)
        self._connect = connect
        self._listeners: list[Listener] = []

    def listen(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Calls `on_change` soon after changes, from a thread of its own, until stopped.

        Returns:
            What ends it.
        """
        listener = Listener(self._connect, on_change)
        self._listeners.append(listener)
        return listener.stop

    def close(self) -> None:
        """Closes every connection."""
        for listener in self._listeners:
            listener.stop()
        super().close()
