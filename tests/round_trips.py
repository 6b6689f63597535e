"""Round trips to PostgreSQL, counted on the wire: a proxy that reads what the client says.

The client waits for an answer after each Query, each Sync, and each Flush that no Sync precedes;
what it sends before that goes together. So the count is exact, and no quiet machine is needed.
"""

from __future__ import annotations

import socket
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from proxy import Proxy

_ENCRYPTION: Final = frozenset((80877103, 80877104))
"""Codes of the requests for TLS and GSSAPI, which the server refuses here."""


@dataclass
class _Client:
    """What a client has said and the server has not been asked to answer yet."""

    unread: bytes = b""
    started: bool = False
    said: list[str] = field(default_factory=list)


class TripCounter(Proxy):
    """A proxy in front of a PostgreSQL without TLS.

    Attributes:
        trips: The round trips so far, each with its statements. Those of a connection's beginning
            are not among them.
        connections: Number of connections that began.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.trips: list[list[str]] = []
        self.connections = 0
        self._clients: dict[socket.socket, _Client] = defaultdict(_Client)

    def to_commit_of(self, write: str) -> int:
        """Returns the number of round trips up to the commit of a transaction.

        Args:
            write: What the transaction wrote last, such as "INSERT INTO log".
        """
        last = max(n for n, said in enumerate(self.trips) if any(write in each for each in said))
        return next(n for n in range(last, len(self.trips)) if self.trips[n][-1] == "COMMIT") + 1

    def _see(self, source: socket.socket, data: bytes) -> None:
        if source.getsockname()[1] != self.port:
            return  # The server speaks.
        client = self._clients[source]
        client.unread += data
        while self._take(client):
            pass

    def _take(self, client: _Client) -> bool:
        """Takes the next message if it is there as a whole."""
        header = 1 if client.started else 0
        if len(client.unread) < header + 4:
            return False
        (length,) = struct.unpack_from(">I", client.unread, header)
        if len(client.unread) < header + length:
            return False
        message, client.unread = (
            client.unread[: header + length],
            client.unread[header + length :],
        )
        if client.started:
            self._read(client, message[:1], message[5:])
        elif struct.unpack_from(">I", message, 4)[0] not in _ENCRYPTION:
            client.started = True
            self.connections += 1
        return True

    def _read(self, client: _Client, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            client.said.append(body.split(b"\0")[1].decode())
        elif kind == b"Q":
            client.said.append(body.rstrip(b"\0").decode())
        if kind in b"QS" or (kind == b"H" and client.said):
            self.trips.append(client.said)
            client.said = []
