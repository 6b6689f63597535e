"""One call of gRPC's protocol over HTTP/2 and ASGI, from the request to the trailers.

It reads message frames and `grpc-timeout`, and writes replies and statuses.
"""

from __future__ import annotations

import base64
from time import monotonic
from typing import Final
from urllib.parse import quote

import grpc
from google.rpc.status_pb2 import Status

from keyfold_server.rpc.asgi_call import (
    PREFIX,
    WINDOW_BITS,
    AsgiCall,
    Refusal,
    plain,
    unpacked,
)
from keyfold_server.rpc.call import Answer, Failed, Method
from keyfold_server.rpc.messages.sizes import UNASKED

KIND: Final = b"application/grpc"
"""The beginning of every content type of gRPC, and of those of gRPC-Web, which this is not."""

_TYPE: Final = (b"content-type", b"application/grpc")
_ENCODINGS: Final = (b"grpc-accept-encoding", b"identity,deflate,gzip")

_START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [_TYPE, _ENCODINGS],
    "trailers": True,
}
_ENDED: Final = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}

_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
"""Seconds of each unit of `grpc-timeout`."""

_TIMEOUT_DIGITS: Final = 8

_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""The characters that `grpc-message` has as they are; others are escaped."""


class GrpcCall(AsgiCall):
    """A call of gRPC; see `rpc.call.Call`."""

    __slots__ = ()

    def check(self, method: Method | None) -> Refusal | Failed | None:
        """Returns why a request cannot be handed to its method; None if it can."""
        scope, fields = self._scope, self._fields
        if scope["method"] != "POST":
            return Refusal(405, "gRPC calls are POST requests")
        kind = fields[b"content-type"]
        if kind != KIND and kind.partition(b";")[0].rstrip() not in (KIND, KIND + b"+proto"):
            return Refusal(415, "this server takes gRPC with protobuf, and Connect")
        if "http.response.trailers" not in scope["extensions"] or scope["http_version"] != "2":
            return Refusal(505, "gRPC needs HTTP/2 and te: trailers; does a proxy drop them?")
        if method is None:
            return plain(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        encoding = fields.get(b"grpc-encoding")
        if encoding is None or encoding == b"identity" or encoding in WINDOW_BITS:
            return None
        return plain(grpc.StatusCode.UNIMPLEMENTED, "use gzip, deflate or identity")

    @property
    def whole(self) -> bytes | None:
        """The request, if the server has all of it by now and it is small."""
        message = self._arrived_at_once()
        if message is None:
            return None
        body: bytes = message.get("body", b"")
        if len(body) >= PREFIX.size:
            packed, size = PREFIX.unpack_from(body)
            if not packed and size <= UNASKED and len(body) == size + PREFIX.size:
                self._ended = not message.get("more_body", False)
                return body[PREFIX.size :]
        self._took(message)
        return None

    def time_remaining(self) -> float | None:
        """Returns the seconds until the caller's deadline; None if the call has no deadline."""
        value = self._fields.get(b"grpc-timeout")
        if value is None:
            return None
        digits, unit = value[:-1], _SECONDS.get(value[-1:])
        if unit is None or not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS:
            return None  # As gRPC's own library does with what it cannot read.
        return max(0.0, self._arrived + int(digits) * unit - monotonic())

    async def write(self, message: bytes) -> None:
        """Sends a reply of a stream."""
        await self._start()
        await self._send(
            {"type": "http.response.body", "body": _prefixed(message), "more_body": True}
        )

    async def end(self, answer: Answer) -> None:
        """Sends what a handler returned."""
        if isinstance(answer, Failed):
            await self._fail(answer.status)
            return
        if not self._started:  # As in `_start`; here without a coroutine of its own.
            self._started = True
            await self._send(_START)
        body = b"" if answer is None else _prefixed(answer)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        await self._send(_ENDED)
        if self._callbacks:
            await self._sent()

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send(_START)

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
        framed = await self._framed()
        if framed is None:
            return None
        packed, data = framed
        return await unpacked(data, self._fields.get(b"grpc-encoding")) if packed else data


def _prefixed(message: bytes) -> bytes:
    return PREFIX.pack(0, len(message)) + message
