"""What all calls that come over ASGI have in common: headers, bodies, deadlines and compression.

`asgi_grpc` reads and writes gRPC's protocol on top of it, and `asgi_connect` the Connect protocol.
Invariant: no message takes more than `LARGEST` bytes of memory, packed or unpacked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import zlib
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Generator, Mapping, MutableMapping, Sequence
from functools import lru_cache
from struct import Struct
from time import monotonic
from typing import Any, Final, NamedTuple

import grpc
from google.rpc.status_pb2 import Status

from keyfold_server.domain.errors import DeadlineError, MalformedRequestError
from keyfold_server.rpc.call import Answer, Failed, Method
from keyfold_server.rpc.messages.sizes import LARGEST

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

PREFIX: Final = Struct(">BI")
"""What precedes each message of a stream, and of any call of gRPC: flags, and its length."""

PACKED: Final = 1
"""The flag of a compressed message."""

WINDOW_BITS: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""zlib's name of each compression that a request may have."""

STALLED: Final = 60.0
"""Seconds for which a client may leave bytes of a reply unread, before it loses its call."""

_AT_ONCE: Final = 64 * 1024
"""Bytes that are unpacked on the event loop; a thread unpacks larger messages."""


class Refusal(NamedTuple):
    """The answer to an HTTP request that is no call.

    Attributes:
        status: HTTP's status.
        text: One line for people; empty for no body.
        headers: Headers beside the body's own.
    """

    status: int
    text: str
    headers: Headers = ()


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

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, fields: Mapping[bytes, bytes]
    ) -> None:
        """Takes what the ASGI server gives for one request.

        Args:
            scope: The request's head.
            receive: Awaits a part of its body.
            send: Sends a part of the answer.
            fields: The headers by their names, for the few that come once. `header` has all values.
        """
        self._arrived = monotonic()
        self._scope = scope
        self._receive = receive
        self._send = send
        self._fields = fields
        self._buffer = bytearray()
        self._pending: _Pending | None = None
        self._ended = False
        self._started = False
        self._callbacks: tuple[Callable[[], None], ...] = ()
        client = scope.get("client")
        self.peer = "unix:" if client is None else _peer(*client)

    @abstractmethod
    def check(self, method: Method | None) -> Refusal | Failed | None:
        """Returns why a request cannot be handed to its method; None if it can.

        Args:
            method: The method at the request's path; None if there is none.
        """
        ...

    @property
    @abstractmethod
    def whole(self) -> bytes | None:
        """The request, if the server has all of it by now and it is small."""
        ...

    @abstractmethod
    def time_remaining(self) -> float | None:
        """Returns the seconds until the caller's deadline; None if the call has no deadline."""
        ...

    @abstractmethod
    async def write(self, message: bytes) -> None:
        """Sends a reply of a stream."""
        ...

    @abstractmethod
    async def end(self, answer: Answer) -> None:
        """Sends what a handler returned."""
        ...

    @abstractmethod
    async def _message(self) -> bytes | None:
        """Reads the request, or the next one of a stream, without a deadline."""
        ...

    def header(self, name: str) -> Sequence[str | bytes]:
        """Returns the values of a header, which are bytes if its name ends in `-bin`."""
        wanted = name.encode("latin-1")
        if wanted not in self._fields:
            return ()
        headers = self._scope["headers"]
        if len(headers) == len(self._fields):  # No header came twice.
            values = [self._fields[wanted]]
        else:
            values = [value for each, value in headers if each == wanted]
        if name.endswith("-bin"):
            return [_binary(part) for value in values for part in value.split(b",")]
        return [value.decode("latin-1") for value in values]

    def certificate(self) -> bytes | None:
        """Returns the client's own certificate in PEM; None if the client showed none."""
        chain = self._scope["extensions"].get("tls", {}).get("client_cert_chain", ())
        return chain[0].encode() if chain else None

    async def read(self) -> bytes | None:
        """Reads the request, or the next one of a stream."""
        try:
            async with asyncio.timeout(self.time_remaining()):
                return await self._message()
        except TimeoutError:
            raise DeadlineError(
                "the deadline passed before the request was whole; allow more time"
            ) from None

    def when_done(self, callback: Callable[[], None]) -> None:
        """Has a function called when the reply has been sent, or the client has gone."""
        self._callbacks = (*self._callbacks, callback)

    def done(self) -> None:
        """Calls what waits for the end of the call."""
        for callback in self._callbacks:
            callback()

    async def refuse(self, refusal: Refusal) -> None:
        """Answers what is no call."""
        body = f"{refusal.text}\n".encode() if refusal.text else b""
        headers = [*refusal.headers]
        if body:
            headers += [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
            ]
        start = {"type": "http.response.start", "status": refusal.status, "headers": headers}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    def _arrived_at_once(self) -> Message | None:
        """Returns the first part of the body if the server has it by now."""
        if self._pending is not None or self._buffer or self._ended:
            return None
        steps = self._receive().__await__()
        try:
            waits_for = next(steps)  # Ends at once if the message is there.
        except StopIteration as done:
            message: Message = done.value
            return message
        self._pending = _Pending(steps, waits_for)
        return None

    async def _sent(self) -> None:
        """Waits until the client has the whole reply, or has gone.

        An ASGI server takes a reply at once, however slowly the client reads it. It says only by
        the disconnect that the stream has ended.
        """
        while (await (self._pending or self._receive()))["type"] == "http.request":
            self._pending = None

    async def _framed(self) -> tuple[int, bytes] | None:
        """Receives a message that has a prefix; returns its flags and its bytes.

        Returns None if the client ends the call before.

        Raises:
            MalformedRequestError: The message is too large.
        """
        if not await self._has(PREFIX.size):
            return None
        flags, size = PREFIX.unpack_from(self._buffer)
        if size > LARGEST:
            raise too_large(size)
        end = PREFIX.size + size
        if not await self._has(end):
            return None
        with memoryview(self._buffer) as view:
            data = bytes(view[PREFIX.size : end])
        del self._buffer[:end]
        return flags, data

    async def _has(self, size: int) -> bool:
        """Receives until the buffer has so many bytes; returns False if the client ends before."""
        while len(self._buffer) < size:
            if self._ended:
                return False
            await self._more()
        return True

    async def _more(self) -> None:
        """Receives the next part of the body."""
        pending, self._pending = self._pending, None
        self._took(await (pending or self._receive()))

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


def plain(code: grpc.StatusCode, message: str) -> Failed:
    """Returns a failure that Keyfold has no reason for."""
    return Failed(Status(code=code.value[0], message=message), code, "")


async def unpacked(data: bytes, encoding: bytes | None) -> bytes:
    """Returns a message without its compression.

    Raises:
        MalformedRequestError: The message is not compressed in this way, or is too large.
    """
    unpack = zlib.decompressobj(WINDOW_BITS.get(encoding or b"", 0) or zlib.MAX_WBITS)
    try:
        result = unpack.decompress(data, _AT_ONCE)
        if not unpack.eof:
            rest = unpack.unconsumed_tail
            result += await asyncio.to_thread(unpack.decompress, rest, LARGEST + 1 - len(result))
    except zlib.error:
        result = b""
    if len(result) > LARGEST:
        raise too_large(len(result))
    if not unpack.eof or unpack.unused_data:
        raise MalformedRequestError("the request is not compressed as its headers say")
    return result


def too_large(size: int) -> MalformedRequestError:
    """Returns the error for a message of so many bytes, or more."""
    return MalformedRequestError(
        f"the request has {size:,} bytes or more, and no method takes more than {LARGEST:,}"
    )


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
