"""One call that came over ASGI: gRPC's protocol over HTTP/2, from the request to the trailers.

It reads message frames, compression, `grpc-timeout` and binary headers, and writes replies and
statuses. Invariant: no message takes more than `LARGEST` bytes of memory, packed or unpacked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import zlib
from collections.abc import Awaitable, Callable, Generator, MutableMapping, Sequence
from functools import lru_cache
from struct import Struct
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

from google.rpc.status_pb2 import Status

from keyfold_server.domain.errors import DeadlineError, MalformedRequestError
from keyfold_server.rpc.call import Answer, Failed
from keyfold_server.rpc.messages.sizes import LARGEST, UNASKED

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PREFIX: Final = Struct(">BI")
"""What precedes each message: whether it is compressed, and its length."""

_TYPE: Final = (b"content-type", b"application/grpc")
_ENCODINGS: Final = (b"grpc-accept-encoding", b"identity,deflate,gzip")

_START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [_TYPE, _ENCODINGS],
    "trailers": True,
}
_ENDED: Final = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}

_WINDOW_BITS: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""zlib's name of each compression that a request may have."""

_AT_ONCE: Final = 64 * 1024
"""Bytes that are unpacked on the event loop; a thread unpacks larger messages."""

_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
"""Seconds of each unit of `grpc-timeout`."""

_TIMEOUT_DIGITS: Final = 8

_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""The characters that `grpc-message` has as they are; others are escaped."""


class AsgiCall:
    """A call that came over ASGI; see `rpc.call.Call`."""

    __slots__ = (
        "_arrived",
        "_buffer",
        "_callbacks",
        "_ended",
        "_fields",
        "_pending",
        "_receive",
        "_scope",
        "_send",
        "_started",
        "peer",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Takes what the ASGI server gives for one request."""
        self._arrived = monotonic()
        self._scope = scope
        self._receive = receive
        self._send = send
        # For the few fields that gRPC itself sends once; `header` has all values.
        self._fields: dict[bytes, bytes] = dict(scope["headers"])
        self._buffer = bytearray()
        self._pending: _Pending | None = None
        self._ended = False
        self._started = False
        self._callbacks: tuple[Callable[[], None], ...] = ()
        client = scope.get("client")
        self.peer = "unix:" if client is None else _peer(*client)

    @property
    def unpacks(self) -> bool:
        """Whether this server can read the requests of the call."""
        encoding = self._fields.get(b"grpc-encoding")
        return encoding is None or encoding == b"identity" or encoding in _WINDOW_BITS

    @property
    def whole(self) -> bytes | None:
        """The request, if the server has all of it by now and it is small."""
        if self._pending is not None or self._buffer or self._ended:
            return None
        steps = self._receive().__await__()
        try:
            waits_for = next(steps)  # Ends at once if the message is there.
        except StopIteration as done:
            message: Message = done.value
        else:
            self._pending = _Pending(steps, waits_for)
            return None
        body: bytes = message.get("body", b"")
        if len(body) >= _PREFIX.size:
            packed, size = _PREFIX.unpack_from(body)
            if not packed and size <= UNASKED and len(body) == size + _PREFIX.size:
                self._ended = not message.get("more_body", False)
                return body[_PREFIX.size :]
        self._took(message)
        return None

    def header(self, name: str) -> Sequence[str | bytes]:
        """Returns the values of a header, which are bytes if its name ends in `-bin`."""
        wanted = name.encode("latin-1")
        if wanted not in self._fields:
            return ()
        values = [value for each, value in self._scope["headers"] if each == wanted]
        if name.endswith("-bin"):
            return [_binary(part) for value in values for part in value.split(b",")]
        return [value.decode("latin-1") for value in values]

    def certificate(self) -> bytes | None:
        """Returns the client's own certificate in PEM; None if the client showed none."""
        chain = self._scope["extensions"].get("tls", {}).get("client_cert_chain", ())
        return chain[0].encode() if chain else None

    def time_remaining(self) -> float | None:
        """Returns the seconds until the caller's deadline; None if the call has no deadline."""
        value = self._fields.get(b"grpc-timeout")
        if value is None:
            return None
        digits, unit = value[:-1], _SECONDS.get(value[-1:])
        if unit is None or not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS:
            return None  # As gRPC's own library does with what it cannot read.
        return max(0.0, self._arrived + int(digits) * unit - monotonic())

    async def read(self) -> bytes | None:
        """Reads the request, or the next one of a stream."""
        try:
            async with asyncio.timeout(self.time_remaining()):
                return await self._message()
        except TimeoutError:
            raise DeadlineError(
                "the deadline passed before the request was whole; allow more time"
            ) from None

    async def write(self, message: bytes) -> None:
        """Sends a reply of a stream."""
        await self._start()
        await self._send(
            {"type": "http.response.body", "body": _framed(message), "more_body": True}
        )

    def when_done(self, callback: Callable[[], None]) -> None:
        """Has a function called when the reply has been sent, or the client has gone."""
        self._callbacks = (*self._callbacks, callback)

    def done(self) -> None:
        """Calls what waits for the end of the call."""
        for callback in self._callbacks:
            callback()

    async def end(self, answer: Answer) -> None:
        """Sends what a handler returned."""
        if isinstance(answer, Failed):
            await self._fail(answer.status)
            return
        await self._start()
        body = b"" if answer is None else _framed(answer)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        await self._send(_ENDED)
        if self._callbacks:
            await self._sent()

    def check_http(self) -> tuple[int, str] | None:
        """Returns the HTTP status and text for what is no gRPC call; None for a gRPC call."""
        scope = self._scope
        if scope["method"] != "POST":
            return 405, "gRPC calls are POST requests"
        kind = self._fields.get(b"content-type", b"")
        if kind != b"application/grpc" and not kind.startswith(
            (b"application/grpc+", b"application/grpc;")
        ):
            return 415, "this server answers gRPC, whose content-type is application/grpc"
        if "http.response.trailers" not in scope["extensions"]:
            return 505, "gRPC needs HTTP/2 and te: trailers; does a proxy drop them?"
        return None

    async def refuse_http(self, refusal: tuple[int, str]) -> None:
        """Answers what is no gRPC call."""
        status, text = refusal
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": f"{text}\n".encode()})

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send(_START)

    async def _sent(self) -> None:
        """Waits until the client has the whole reply, or has gone.

        An ASGI server takes a reply at once, however slowly the client reads it. It says only by
        the disconnect that the stream has ended.
        """
        while (await (self._pending or self._receive()))["type"] == "http.request":
            self._pending = None

    async def _fail(self, status: Status) -> None:
        trailers = [
            (b"grpc-status", str(status.code).encode()),
            (b"grpc-message", quote(status.message, safe=_PLAIN).encode()),
        ]
        if status.details:
            details = base64.b64encode(status.SerializeToString()).rstrip(b"=")
            trailers.append((b"grpc-status-details-bin", details))
        end = {"type": "http.response.body", "body": b"", "more_body": False}
        if self._started:
            await self._send(end)
            await self._send({"type": "http.response.trailers", "headers": trailers})
        else:
            headers = [_TYPE, _ENCODINGS, *trailers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send(end)

    async def _message(self) -> bytes | None:
        if not await self._has(_PREFIX.size):
            return None
        packed, size = _PREFIX.unpack_from(self._buffer)
        if size > LARGEST:
            raise _too_large(size)
        end = _PREFIX.size + size
        if not await self._has(end):
            return None
        with memoryview(self._buffer) as view:
            data = bytes(view[_PREFIX.size : end])
        del self._buffer[:end]
        return await _unpacked(data, self._fields.get(b"grpc-encoding")) if packed else data

    async def _has(self, size: int) -> bool:
        """Receives until the buffer has so many bytes; returns False if the client ends before."""
        while len(self._buffer) < size:
            if self._ended:
                return False
            pending, self._pending = self._pending, None
            self._took(await (pending or self._receive()))
        return True

    def _took(self, message: Message) -> None:
        if message["type"] == "http.request":
            self._buffer += message.get("body", b"")
            self._ended = not message.get("more_body", False)
        else:
            self._ended = True


class _Pending:
    """A `receive` that was begun and did not end at once; awaiting it goes on with it."""

    __slots__ = ("_steps", "_waits_for")

    def __init__(self, steps: Generator[Any, None, Message], waits_for: Any) -> None:
        self._steps = steps
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, None, Message]:
        try:
            yield self._waits_for
        except BaseException as error:  # noqa: BLE001  above all CancelledError
            self._steps.throw(error)
        return (yield from self._steps)


async def _unpacked(data: bytes, encoding: bytes | None) -> bytes:
    """Returns a message without its compression.

    Raises:
        MalformedRequestError: The message is not compressed in this way, or is too large.
    """
    unpack = zlib.decompressobj(_WINDOW_BITS.get(encoding or b"", 0) or zlib.MAX_WBITS)
    try:
        plain = unpack.decompress(data, _AT_ONCE)
        if not unpack.eof:
            rest = unpack.unconsumed_tail
            plain += await asyncio.to_thread(unpack.decompress, rest, LARGEST + 1 - len(plain))
    except zlib.error:
        plain = b""
    if len(plain) > LARGEST:
        raise _too_large(len(plain))
    if not unpack.eof or unpack.unused_data:
        raise MalformedRequestError("the request is not compressed as its grpc-encoding says")
    return plain


def _too_large(size: int) -> MalformedRequestError:
    return MalformedRequestError(
        f"the request has {size:,} bytes or more, and no method takes more than {LARGEST:,}"
    )


def _framed(message: bytes) -> bytes:
    return _PREFIX.pack(0, len(message)) + message


def _binary(value: bytes) -> bytes:
    """Returns the bytes of a `-bin` header; empty if it is not base64."""
    value = value.strip()
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return b""


@lru_cache(maxsize=4_096)
def _peer(host: str, port: int) -> str:
    """Returns a client's address as gRPC writes it."""
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
