"""Clients that begin large requests and never end them, frame by frame: no library does that."""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

HELLO: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The first bytes of an HTTP/2 client: the preface, and settings that change nothing."""

_HALF: Final = 1_950_000
"""Bytes that are sent of a request; its rest never follows."""

_PREFIX: Final = 5
"""Bytes of the prefix that tells a gRPC message's length."""


def frame(kind: int, flags: int, payload: bytes, stream: int = 0) -> bytes:
    """Returns an HTTP/2 frame."""
    return struct.pack(">IBBI", len(payload), kind, flags, stream)[1:] + payload


class HalfOpen:
    """One connection that begins calls with large requests and does not end them.

    It speaks HTTP/2 itself, and respects the server's flow control.

    Attributes:
        sent: Bytes of requests so far.
        closed: Whether the server has closed the connection.
        reset: By stream, the HTTP/2 error code with which the server ended the call.
    """

    def __init__(self, target: str, method: str, calls: int) -> None:
        """Connects, and begins the calls."""
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._socket.sendall(HELLO)
        self._input = b""
        self._connection = 65_535
        self._initial = 65_535
        self._windows = dict.fromkeys(range(1, 2 * calls, 2), self._initial)
        self._left = dict.fromkeys(self._windows, _HALF)
        self.sent = 0
        self.closed = False
        self.reset: dict[int, int] = {}
        path = method if method[0] == "/" else f"/keyfold.v1.KeyManagementService/{method}"
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
        fields |= {"content-type": "application/grpc", "te": "trailers"}
        block = b"".join(
            b"\0" + bytes((len(k),)) + k.encode() + bytes((len(v),)) + v.encode()
            for k, v in fields.items()
        )
        self._write(b"".join(frame(1, 4, block, stream) for stream in self._windows))

    def send(self) -> None:
        """Sends all that the server lets it send now."""
        for stream in self._windows:
            while (size := min(self._allowed(stream), 16_384)) > 0:
                began = self._left[stream] == _HALF
                if began and size < _PREFIX:
                    break  # The prefix must go out whole.
                data = (
                    struct.pack(">BI", 0, 2 * _HALF) + bytes(size - _PREFIX)
                    if began
                    else bytes(size)
                )
                self._write(frame(0, 0, data, stream))
                self._left[stream] -= size
                self._windows[stream] -= size
                self._connection -= size
                self.sent += size

    def listen(self, seconds: float) -> None:
        """Reads what the server says within a time."""
        self._socket.settimeout(seconds)
        try:
            received = self._socket.recv(1 << 20)
            self.closed = self.closed or not received
            self._input += received
        except TimeoutError:
            pass
        except OSError:
            self.closed = True
        self._socket.settimeout(10)
        while len(self._input) >= 9:
            end = 9 + int.from_bytes(self._input[:3], "big")
            if len(self._input) < end:
                return
            kind, flags = self._input[3], self._input[4]
            self._heard(kind, flags, int.from_bytes(self._input[5:9], "big"), self._input[9:end])
            self._input = self._input[end:]

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            self.closed = True

    def _allowed(self, stream: int) -> int:
        if stream in self.reset or self.closed:
            return 0
        return min(self._windows[stream], self._connection, self._left[stream])

    def _heard(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == 3:
            # Bytes of ours that cross the reset get a second one, STREAM_CLOSED (RFC 9113, 5.1).
            self.reset.setdefault(stream, int.from_bytes(payload, "big"))
        elif kind == 4 and not flags:
            for number, value in struct.iter_unpack(">HI", payload):
                if number == 4:
                    grown = value - self._initial
                    self._windows = {k: v + grown for k, v in self._windows.items()}
                    self._initial = value
            self._write(frame(4, 1, b""))
        elif kind == 6 and not flags:
            self._write(frame(6, 1, payload))
        elif kind == 8 and stream:
            self._windows[stream] += int.from_bytes(payload, "big")
        elif kind == 8:
            self._connection += int.from_bytes(payload, "big")


def flood(clients: list[HalfOpen], quiet: float) -> None:
    """Sends all that a server accepts, until it has accepted nothing for some seconds."""
    ends = time.monotonic() + quiet
    while time.monotonic() < ends:
        before = sum(client.sent for client in clients)
        for client in clients:
            client.send()
            client.listen(0.01)
        if sum(client.sent for client in clients) > before:
            ends = time.monotonic() + quiet
