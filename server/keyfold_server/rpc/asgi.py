"""The handlers as an application for any ASGI server: gRPC, and the Connect protocol beside it.

It knows ASGI and no particular server of it. Whatever a client sends is bounded before a handler
sees it: the number of calls here, the size of a message in `asgi_call`.
"""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import Final

import grpc

from keyfold_server.domain.bounds import Bounds
from keyfold_server.rpc.asgi_call import AsgiCall, Headers, Receive, Refusal, Scope, Send, plain
from keyfold_server.rpc.asgi_connect import Http
from keyfold_server.rpc.asgi_grpc import KIND, GrpcCall
from keyfold_server.rpc.call import Answer, Method, Table
from keyfold_server.rpc.cors import Origins

_HEADER_BYTES: Final = Bounds().header_bytes


class AsgiApp:
    """The handlers as an ASGI application."""

    def __init__(
        self,
        table: Table,
        most: int,
        origins: Origins | None = None,
        header_bytes: int = _HEADER_BYTES,
    ) -> None:
        """Takes what the application answers.

        Args:
            table: The methods.
            most: Calls that may be under way.
            origins: The origins whose pages may call; no page may by default.
            header_bytes: Bytes that the headers of a call may have, as HTTP/2 counts them.
        """
        self._table = table
        self._left = most
        self._header_bytes = header_bytes
        self._http = Http(origins or Origins())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one call."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # HTTP status 403, before any handshake.
            return
        if scope["type"] != "http":
            raise ValueError(f"this application answers HTTP alone, not {scope['type']}")
        fields: dict[bytes, bytes] = dict(scope["headers"])
        kind = fields.get(b"content-type")
        if kind == KIND or (kind is not None and kind.startswith(KIND)):
            call: AsgiCall = GrpcCall(scope, receive, send, fields)
        else:
            call = self._http.call(scope, receive, send, fields)
        try:
            await self._answer(call, scope)
        except OSError:
            pass  # The client has gone, so nobody is left to be told.
        finally:
            call.done()

    async def _answer(self, call: AsgiCall, scope: Scope) -> None:
        method = self._table.get(scope["path"])
        refused = call.check(method)
        if refused is not None or method is None:
            if isinstance(refused, Refusal):
                await call.refuse(refused)
            else:
                await call.end(refused)
        elif (size := _size(scope["headers"])) > self._header_bytes:
            much = (
                f"the metadata has {size:,} bytes, and at most {self._header_bytes:,} are allowed"
            )
            await call.end(plain(grpc.StatusCode.RESOURCE_EXHAUSTED, much))
        elif self._left <= 0:
            full = "Concurrent RPC limit exceeded!"
            await call.end(plain(grpc.StatusCode.RESOURCE_EXHAUSTED, full))
        else:
            self._left -= 1
            try:
                await call.end(
                    await _in_time(method, call) if method.streams else await method.handle(call)
                )
            finally:
                self._left += 1


def _size(headers: Headers) -> int:
    """Returns the size of headers as HTTP/2 counts it (RFC 9113, 6.5.2)."""
    return len(b"".join(chain.from_iterable(headers))) + 32 * len(headers)


async def _in_time(method: Method, call: AsgiCall) -> Answer:
    """Answers a stream, which ends at its deadline; what is no stream keeps its deadline itself."""
    try:
        async with asyncio.timeout(call.time_remaining()):
            return await method.handle(call)
    except TimeoutError:
        return plain(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
