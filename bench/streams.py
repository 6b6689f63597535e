"""Many readers of WatchEvents in one process, which notes when each message arrives.

    python bench/streams.py ADDRESS CONNECTIONS STREAMS_PER_CONNECTION

It speaks HTTP/2 itself, frame by frame. gRPC's own client takes 160 us of CPU for a message, so a
thousand streams would measure the client; this one takes a few. It prints `open` once each stream
has its snapshot and the first heartbeat. When its input ends, it prints what arrived, as JSON.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from e2e.half_open import frame
from keyfold.v1 import event_service_pb2 as pb

_METHOD: Final = "/keyfold.v1.EventService/WatchEvents"
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END: Final = 1
"""The flag of the last frame of a stream, and of an acknowledgement."""

_WHOLE: Final = 4
"""The flag of headers without a continuation."""

_HEAD: Final = 9
"""Bytes before a frame's payload."""

_PREFIX: Final = 5
"""Bytes before a gRPC message: a flag, and the message's size."""

_INITIAL_WINDOW: Final = 4
_MOST: Final = 2**31 - 1
"""The largest window, so that no case fills it, and nothing has to be told to the server."""


class EndedError(Exception):
    """A stream or a connection ended."""


class Arrivals:
    """What has arrived, and when.

    Attributes:
        messages: Number of messages.
        began: Number of streams that have had their first heartbeat.
        first: By cluster and epoch, when each stream first told of it, in monotonic seconds.
    """

    def __init__(self) -> None:
        """Has nothing."""
        self.messages = 0
        self.began = 0
        self.first: dict[tuple[str, int], dict[int, float]] = {}
        self._begun: set[int] = set()
        self._known: dict[bytes, pb.WatchEventsResponse] = {}

    def note(self, stream: int, message: bytes, now: float) -> None:
        """Notes a message of a stream."""
        self.messages += 1
        # Most messages are the same for all streams.
        read = self._known.get(message)
        if read is None:
            read = self._known[message] = pb.WatchEventsResponse.FromString(message)
        kind = read.WhichOneof("message")
        if kind == "state":
            times = self.first.setdefault((read.state.cluster, read.state.epoch), {})
            times.setdefault(stream, now)
        elif kind == "heartbeat" and stream not in self._begun:
            self._begun.add(stream)
            self.began += 1


class Connection:
    """One connection with some streams of states."""

    def __init__(self, address: str, number: int, streams: int, arrivals: Arrivals) -> None:
        """Connects, and begins the streams; `number` is the connection's."""
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self._arrivals = arrivals
        self._first = number * streams
        self._input = b""
        self._messages: dict[int, bytes] = {}
        request = pb.WatchEventsRequest(states=True).SerializeToString()
        data = struct.pack(">BI", 0, len(request)) + request
        begin = [
            _PREFACE,
            frame(_SETTINGS, 0, struct.pack(">HI", _INITIAL_WINDOW, _MOST)),
            frame(_WINDOW, 0, struct.pack(">I", _MOST - 65_535)),
        ]
        for stream in range(1, 2 * streams, 2):
            begin.append(frame(_HEADERS, _WHOLE, _headers(), stream))
            begin.append(frame(_DATA, _END, data, stream))
        self.socket.sendall(b"".join(begin))

    def read(self) -> None:
        """Reads what there is.

        Raises:
            EndedError: The server ended the connection, or a stream.
        """
        received = self.socket.recv(1 << 18)
        now = time.monotonic()
        if not received:
            raise EndedError("the server closed a connection")
        self._input += received
        at, size = 0, len(self._input)
        while size - at >= _HEAD:
            end = at + _HEAD + int.from_bytes(self._input[at : at + 3], "big")
            if size < end:
                break
            kind, flags = self._input[at + 3], self._input[at + 4]
            stream = int.from_bytes(self._input[at + 5 : at + 9], "big")
            self._heard(kind, flags, stream, self._input[at + _HEAD : end], now)
            at = end
        self._input = self._input[at:]

    def _heard(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind == _DATA:
            self._data(stream, payload, now)
        elif kind in {_SETTINGS, _PING} and not flags & _END:
            self.socket.sendall(frame(kind, _END, payload if kind == _PING else b""))
        if kind in {_RESET, _GOAWAY} or (kind in {_DATA, _HEADERS} and flags & _END):
            raise EndedError(f"the server ended a stream: frame {kind}, {payload!r}")

    def _data(self, stream: int, payload: bytes, now: float) -> None:
        rest = self._messages.pop(stream, b"") + payload
        while len(rest) >= _PREFIX:
            end = _PREFIX + int.from_bytes(rest[1:_PREFIX], "big")
            if len(rest) < end:
                break
            self._arrivals.note(self._first + stream // 2, rest[_PREFIX:end], now)
            rest = rest[end:]
        if rest:
            self._messages[stream] = rest


def _headers() -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": _METHOD, ":authority": "x"}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    return b"".join(
        b"\0" + bytes((len(k),)) + k.encode() + bytes((len(v),)) + v.encode()
        for k, v in fields.items()
    )


def main() -> None:
    """Reads until the input ends."""
    address, count, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    arrivals = Arrivals()
    connections = [Connection(address, number, each, arrivals) for number in range(count)]
    readers = {connection.socket.fileno(): connection for connection in connections}
    poll = select.epoll()
    for number in (sys.stdin.fileno(), *readers):
        poll.register(number, select.EPOLLIN)
    opened = False
    while True:
        for number, _ in poll.poll():
            if number not in readers:
                _tell(arrivals)
                return
            readers[number].read()
        if not opened and arrivals.began == count * each:
            opened = True
            print("open", flush=True)


def _tell(arrivals: Arrivals) -> None:
    first = [[*key, list(times.values())] for key, times in arrivals.first.items()]
    json.dump({"messages": arrivals.messages, "first": first}, sys.stdout)


if __name__ == "__main__":
    main()
