"""Notifications, by which a replica hears of a change at once.

They are only hints: a notification may come without need, and may get lost. So a replica polls
after each notification, and also polls without one (protocol S1, W3).
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

    from keyfold_server.domain.log import Entry
    from keyfold_server.domain.ports import Clock, Heartbeat
    from keyfold_server.store.database.engine import Database
    from keyfold_server.store.postgresql.session import BoundedSession
    from keyfold_server.store.seal import Seal

log = logging.getLogger(__name__)

_LISTEN: Final = sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL))

_LOOK: Final = 0.5
"""Seconds between two checks whether to stop."""

_PROBE: Final = 15.0
"""Seconds of silence after which the listener tests the connection, which may be lost."""

_ANSWER: Final = 5.0
"""Seconds that the server has to answer a statement of the listener."""

_SHORTEST: Final = 0.5
"""Seconds before the first new connection after one has ended."""

_LONGEST: Final = 30.0
"""Most seconds before a new connection."""


class Listener:
    """A thread that listens on its own connection, and renews that connection itself."""

    def __init__(
        self, connect: Callable[[], BoundedSession], on_change: Callable[[], None]
    ) -> None:
        """Starts to listen.

        Args:
            connect: Opens a connection.
            on_change: Called after a change, and whenever the thread may have missed one.
        """
        self._connect = connect
        self._on_change = on_change
        self._ended = threading.Event()
        self._again = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-listener", daemon=True)
        self._thread.start()

    def try_again(self) -> None:
        """Ends a pause before a new connection, because the store answers again."""
        self._again.set()

    def stop(self) -> None:
        """Ends the thread and waits for its end, for at most 2 seconds."""
        self._ended.set()
        self._again.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_LOOK * 4)

    def _run(self) -> None:
        pause = _SHORTEST
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self._listen()
            except (Error, StoreUnavailableError) as error:
                # The type alone, because the driver's text may hold values of rows.
                log.info("notifications of the store ended: %s", type(error).__name__)
            except Exception:
                log.exception("notifications of the store ended unexpectedly")
            if time.monotonic() - began > _LONGEST:
                pause = _SHORTEST
            pause = _SHORTEST if self._again.wait(pause) else min(pause * 2, _LONGEST)
            self._again.clear()

    def _listen(self) -> None:
        with self._connect() as connection:
            connection.ends = time.monotonic() + _ANSWER
            connection.execute(_LISTEN)
            # Changes from before the LISTEN sent no notification here.
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
    """A SqlStore that is also a `domain.ports.Notifies`."""

    def __init__(
        self,
        database: Database,
        seal: Seal,
        uid: bytes,
        connect: Callable[[], BoundedSession],
        *,
        clock: Clock,
        reach: Callable[[str], None] = no_failpoint,
    ) -> None:
        """Takes the arguments of a SqlStore, and a function that opens a connection."""
        super().__init__(database, seal, uid, clock=clock, reach=reach)
        self._connect = connect
        self._listeners: list[Listener] = []
        self._away = False

    def listen(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Calls `on_change` soon after changes, from a thread of its own.

        Returns:
            A function that ends the thread.
        """
        listener = Listener(self._connect, on_change)
        self._listeners.append(listener)
        return listener.stop

    def poll(self, beat: Heartbeat) -> list[Entry]:
        """Polls. After an outage the listeners connect at once: it may have let their pauses grow.

        Until they listen, a Revoke takes as long as `KEYFOLD_STORE_POLL` to arrive.
        """
        try:
            entries = super().poll(beat)
        except StoreUnavailableError:
            self._away = True
            raise
        if self._away:
            self._away = False
            for listener in self._listeners:
                listener.try_again()
        return entries

    def close(self) -> None:
        """Stops the listeners and closes every connection."""
        for listener in self._listeners:
            listener.stop()
        super().close()
