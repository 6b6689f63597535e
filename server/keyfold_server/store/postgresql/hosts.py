"""Hosts: which hosts of a store that fails over a new connection asks, and in which order."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

_AWAY: Final = 3.0
"""Seconds for which a host that did not answer is left out, while there are others."""

_T = TypeVar("_T")


class Host(NamedTuple):
    """A host of the url, and its port as the url has it; empty for PostgreSQL's own."""

    host: str
    port: str


class Hosts:
    """What a replica knows of its store's hosts. Safe for several threads.

    A host whose region is cut off costs each connection seconds, and no connection can be made
    while another region takes over. So the host that took the last connection is asked first, and
    one that did not answer is left out for a few seconds. Otherwise each poll and each change after
    a failover would wait for the dead host before it asks the new primary.

    A primary that nobody told of its successor takes connections, answers no commit, and lacks what
    the successor has. So a host that leaves a transaction without an answer, or lacks changes, is
    asked last, and its other connections are not used again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins with the order of the url."""
        self._clock = clock
        self._lock = threading.Lock()
        self._first: Host | None = None
        self._away: dict[Host, float] = {}
        self._doubted: dict[Host, float] = {}
        self._last: set[Host] = set()

    def connect(
        self, parameters: Mapping[str, Any], connect: Callable[[dict[str, Any]], _T]
    ) -> tuple[_T, Host | None]:
        """Connects to the first host that takes the connection.

        Args:
            parameters: The connection's parameters, with all hosts.
            connect: Connects with given parameters.

        Returns:
            The connection, and the host that took it; None: the url names no other one.

        Raises:
            psycopg.Error: No host took it; this is the last host's error.
        """
        from psycopg import Error, OperationalError
        from psycopg.errors import ConnectionTimeout

        named = _named(parameters)
        if len(named) == 1:
            return connect(dict(parameters)), None
        failed: Error = OperationalError("the url names no host")
        for host in self._in_order(named):
            try:
                made = connect({**parameters, **host._asdict()})
            except Error as error:
                # Its frames hold the driver's half-open connection, which the server would keep.
                failed = error.with_traceback(None)
                self._note(host, away=isinstance(error, ConnectionTimeout))
            else:
                self._note(host, away=False)
                self._first = host
                return made, host
        try:
            raise failed
        finally:
            del failed  # else the error would hold this frame, and this frame the error

    def doubt(self, host: Host) -> None:
        """Notes that a host left a transaction without an answer, or lacks changes."""
        with self._lock:
            now = self._clock()
            self._doubted[host] = now
            # A successor that was away once must come before it: it takes every connection.
            self._last.add(host)
            self._away.setdefault(host, now)
            if self._first == host:
                self._first = None

    def doubted(self, host: Host, since: float) -> bool:
        """Returns whether a host has been doubted since a time of the clock."""
        return self._doubted.get(host, -math.inf) >= since

    def _in_order(self, named: list[Host]) -> Iterator[Host]:
        asked = False

        def rank(host: Host) -> tuple[bool, bool, bool]:
            return host in self._last, host in self._away, host != self._first

        for host in sorted(named, key=rank):
            with self._lock:
                if asked and self._away.get(host, 0.0) > self._clock():
                    continue
                if host in self._away:
                    # While this connection asks whether it is back, the others leave it out.
                    self._away[host] = self._clock() + _AWAY
            asked = True
            yield host

    def _note(self, host: Host, *, away: bool) -> None:
        with self._lock:
            self._away.pop(host, None)
            self._last.discard(host)
            if away:
                self._away[host] = self._clock() + _AWAY


def _named(parameters: Mapping[str, Any]) -> list[Host]:
    names = str(parameters.get("host", "")).split(",")
    ports = str(parameters.get("port", "")).split(",")
    if len(ports) == 1:
        ports *= len(names)
    return [Host(*each) for each in zip(names, ports, strict=True)]
