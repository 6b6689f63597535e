"""One call of the Connect protocol over HTTP and ASGI: plain POST requests, in JSON or protobuf.

The handlers see no difference: requests reach them as protobuf's bytes, and replies leave them so.
Replies are never compressed, because the size of what is compressed together with a caller's own
text tells about the rest of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from time import monotonic
from typing import Final, NamedTuple

import grpc

from keyfold_server.domain.errors import MalformedRequestError
from keyfold_server.rpc.asgi_call import (
    PACKED,
    PREFIX,
    STALLED,
    AsgiCall,
    Headers,
    Message,
    Receive,
    Refusal,
    Scope,
    Send,
    plain,
    too_large,
    unpacked,
)
from keyfold_server.rpc.call import Answer, Failed, Method
from keyfold_server.rpc.cors import Origins
from keyfold_server.rpc.messages.connect_error import error_body, http_status, stream_end
from keyfold_server.rpc.messages.json_form import JsonForm
from keyfold_server.rpc.messages.sizes import LARGEST, UNASKED

_ENDS: Final = 2
"""The flag of a stream's last message."""

_ENCODINGS: Final = (None, b"identity", b"gzip")

_ONCE: Final = (
    b"connect-protocol-version",
    b"connect-timeout-ms",
    b"connect-content-encoding",
    b"content-encoding",
    b"content-type",
    b"origin",
)
"""Headers that say how to read a request. If one comes twice, somebody before this server may have
read the other one."""

_TIMEOUT_DIGITS: Final = 10

_LINGER: Final = 1.0
"""Seconds for which the rest of a small body may still come."""

_PIECE: Final = 16 * 1024
"""Bytes of a reply that are sent at a time where nobody says when they have been read."""

_JSON: Final = (b"content-type", b"application/json")

_COMMON: Final = (
    # Replies may hold keys, which no cache and no browser's guess may get at.
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class _Kind(NamedTuple):
    json: bool
    streams: bool


_KINDS: Final = {
    b"application/json": _Kind(json=True, streams=False),
    b"application/proto": _Kind(json=False, streams=False),
    b"application/connect+json": _Kind(json=True, streams=True),
    b"application/connect+proto": _Kind(json=False, streams=True),
}


class Http:
    """Makes the calls of one application."""

    def __init__(self, origins: Origins) -> None:
        """Takes what the pages of browsers may do."""
        self.origins = origins
        self.json = JsonForm()

    def call(
        self, scope: Scope, receive: Receive, send: Send, fields: Mapping[bytes, bytes]
    ) -> _ConnectCall:
        """Returns the call of an HTTP request, of whatever content type."""
        media, parameters = _media(fields.get(b"content-type", b""))
        kind = _KINDS.get(media) if parameters in (b"", b"charset=utf-8") else None
        form = StreamCall if kind is not None and kind.streams else UnaryCall
        return form(scope, receive, send, fields, self, kind)


class _ConnectCall(AsgiCall):
    """What unary calls and streams have in common."""

    __slots__ = ("_gone", "_http", "_json", "_kind")

    _encoding_header = b"content-encoding"

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        fields: Mapping[bytes, bytes],
        http: Http,
        kind: _Kind | None,
    ) -> None:
        super().__init__(scope, receive, send, fields)
        self._gone = False
        self._http = http
        self._kind = kind
        self._json = http.json if kind is not None and kind.json else None

    def check(self, method: Method | None) -> Refusal | Failed | None:
        """Returns why a request cannot be handed to its method; None if it can."""
        fields, verb = self._fields, self._scope["method"]
        refusal = self._http.origins.check(verb, fields)
        if refusal is not None:
            return refusal
        if method is None:
            return self._refused(404, "there is no method at this path")
        if verb != "POST":
            return self._refused(405, "calls are POST requests", (b"allow", b"POST"))
        if self._kind is None or self._kind.streams is not method.streams:
            takes = [name.decode() for name, k in _KINDS.items() if k.streams is method.streams]
            text = f"this method takes the content types {' and '.join(takes)}, and gRPC's"
            return self._refused(415, text, (b"accept-post", ", ".join(takes).encode()))
        counted = Counter(name for name, _ in self._scope["headers"])
        twice = [name.decode() for name in _ONCE if counted[name] > 1]
        if twice:
            return self._refused(400, f"the header {twice[0]} comes twice; send it once")
        return self._check_headers()

    def _check_headers(self) -> Failed | None:
        fields = self._fields
        timeout = fields.get(b"connect-timeout-ms", b"0")
        encoding = self._encoding_header
        if fields.get(b"connect-protocol-version", b"1") != b"1":
            return plain(grpc.StatusCode.INVALID_ARGUMENT, "connect-protocol-version must be 1")
        if not timeout.isdigit() or len(timeout) > _TIMEOUT_DIGITS:
            text = f"connect-timeout-ms must be a number of at most {_TIMEOUT_DIGITS} digits"
            return plain(grpc.StatusCode.INVALID_ARGUMENT, text)
        if fields.get(encoding) not in _ENCODINGS:
            text = f"{encoding.decode()} must be gzip or identity"
            return plain(grpc.StatusCode.UNIMPLEMENTED, text)
        return None

    def time_remaining(self) -> float | None:
        """Returns the seconds until the caller's deadline; None if the call has no deadline."""
        value = self._fields.get(b"connect-timeout-ms")
        if value is None:
            return None
        return max(0.0, self._arrived + int(value) / 1000 - monotonic())

    def _refused(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> Refusal:
        return Refusal(status, text, (*headers, *self._http.origins.headers(self._fields)))

    async def _request(self, data: bytes, *, packed: bool) -> bytes:
        """Returns the bytes of a request for the handlers."""
        if packed:
            if self._fields.get(self._encoding_header) != b"gzip":
                raise MalformedRequestError("the request is not compressed as its headers say")
            data = await unpacked(data, b"gzip")
        if self._json is None:
            return data
        return await self._json.request(self._scope["path"], data)

    async def _reply(self, message: bytes) -> bytes:
        """Returns a reply as the caller wants it."""
        if self._json is None:
            return message
        return await self._json.reply(self._scope["path"], message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answers what is no call."""
        await self._take_rest()
        await super().refuse(refusal)

    async def _take_rest(self) -> None:
        """Takes the rest of a small body before an answer that does not need it.

        Over HTTP/2 a part of it that came after the answer would meet a closed stream, and a client
        such as curl would report that instead of the answer.
        """
        length = self._fields.get(b"content-length", b"0")
        if self._scope["http_version"] != "2" or not length.isdigit() or int(length) > UNASKED:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while not self._ended and len(self._buffer) <= UNASKED:
                    await self._more()

    async def _begin(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        self._started = True
        cors: Headers = self._http.origins.headers(self._fields)
        every = [*headers, *_COMMON, *cors]
        await self._send({"type": "http.response.start", "status": status, "headers": every})

    @property
    def _says_when_sent(self) -> bool:
        """Whether the ASGI server says when the client has the whole reply.

        Over HTTP/1.1 it does not. There a reply goes out in pieces, of which the server holds some,
        and takes no more until the client has read.
        """
        version: str = self._scope["http_version"]
        return version == "2"

    async def _put(self, body: bytes, *, more: bool) -> None:
        """Sends a part of the answer's body.

        Raises:
            TimeoutError: The client does not read.
        """
        async with asyncio.timeout(None if self._says_when_sent else STALLED):
            await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _took(self, message: Message) -> None:
        if message["type"] != "http.request":
            self._gone = True
        super()._took(message)

    def _kind_header(self) -> tuple[bytes, bytes]:
        return b"content-type", _media(self._fields[b"content-type"])[0]


class UnaryCall(_ConnectCall):
    """A call with one request and one reply, each the whole body."""

    __slots__ = ()

    @property
    def whole(self) -> bytes | None:
        """The request, if the server has all of it by now, it is small, and it is protobuf."""
        message = self._arrived_at_once()
        if message is None:
            return None
        body: bytes = message.get("body", b"")
        plain_bytes = self._json is None and self._fields.get(b"content-encoding") != b"gzip"
        self._took(message)
        if plain_bytes and self._ended and not self._gone and len(body) <= UNASKED:
            self._buffer.clear()
            return body
        return None

    async def write(self, message: bytes) -> None:
        """Is for streams alone."""
        raise NotImplementedError

    async def end(self, answer: Answer) -> None:
        """Sends what a handler returned."""
        if isinstance(answer, Failed):
            await self._take_rest()
            kind, status = _JSON, http_status(answer.status)
            body = error_body(answer.status)
        else:
            kind, status = self._kind_header(), 200
            body = await self._reply(answer or b"")
        await self._begin(status, kind, (b"content-length", str(len(body)).encode()))
        while len(body) > _PIECE and not self._says_when_sent:
            await self._put(body[:_PIECE], more=True)
            body = body[_PIECE:]
        await self._put(body, more=False)
        if self._callbacks and self._says_when_sent:
            await self._sent()

    async def _message(self) -> bytes | None:
        length = self._fields.get(b"content-length", b"")
        if length.isdigit() and int(length) > LARGEST:
            raise too_large(int(length))
        while not self._ended:
            await self._more()
            if len(self._buffer) > LARGEST:
                raise too_large(len(self._buffer))
        if self._gone:
            return None
        data = bytes(self._buffer)
        self._buffer.clear()
        # By the protocol a body without a byte is not compressed.
        packed = bool(data) and self._fields.get(b"content-encoding") == b"gzip"
        return await self._request(data, packed=packed)


class StreamCall(_ConnectCall):
    """A call with messages behind prefixes, which ends with one that says how."""

    __slots__ = ()

    _encoding_header = b"connect-content-encoding"

    @property
    def whole(self) -> bytes | None:
        """None: a stream's requests are read."""
        return None

    async def write(self, message: bytes) -> None:
        """Sends a reply of a stream."""
        await self._start()
        reply = await self._reply(message)
        await self._put(PREFIX.pack(0, len(reply)) + reply, more=True)

    async def end(self, answer: Answer) -> None:
        """Sends what a handler returned."""
        await self._start()
        last = stream_end(answer.status if isinstance(answer, Failed) else None)
        await self._put(PREFIX.pack(_ENDS, len(last)) + last, more=False)

    async def _start(self) -> None:
        if not self._started:
            await self._begin(200, self._kind_header())

    async def _message(self) -> bytes | None:
        framed = await self._framed()
        if framed is None:
            return None
        flags, data = framed
        if flags not in (0, PACKED):
            raise MalformedRequestError("a message of the request has flags that it may not have")
        return await self._request(data, packed=flags == PACKED)


def _media(value: bytes) -> tuple[bytes, bytes]:
    """Returns a content type without its parameters, and these, in lower case."""
    media, _, parameters = value.partition(b";")
    return media.strip().lower(), parameters.strip().lower().replace(b'"', b"")
