"""gRPC over ASGI: an application for any ASGI server that has HTTP/2 and trailers.

It knows ASGI and no particular server of it. Whatever a client sends is bounded before a handler
sees it: the number of calls here, the size of a message in `asgi_call`.
"""

from __future__ import annotations

import asyncio

import grpc
from google.rpc.status_pb2 import Status

from keyfold_server.rpc.asgi_call import AsgiCall, Receive, Scope, Send
from keyfold_server.rpc.call import Answer, Failed, Method, Table


class AsgiApp:
    """The handlers as an ASGI application."""

    def __init__(self, table: Table, most: int) -> None:
        """Takes the methods, and how many calls may be under way."""
        self._table = table
        self._left = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one call."""
        if scope["type"] != "http":
            raise ValueError(f"this application answers HTTP alone, not {scope['type']}")
        call = AsgiCall(scope, receive, send)
        try:
            await self._answer(call, scope)
        except OSError:
            pass  # The client has gone, so nobody is left to be told.
        finally:
            call.done()

    async def _answer(self, call: AsgiCall, scope: Scope) -> None:
        no_call = call.check_http()
        if no_call is not None:
            await call.refuse_http(no_call)
            return
        method = self._table.get(scope["path"])
        if method is None:
            await call.end(_plain(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
        elif not call.unpacks:
            await call.end(_plain(grpc.StatusCode.UNIMPLEMENTED, "use gzip, deflate or identity"))
        elif self._left <= 0:
            full = "Concurrent RPC limit exceeded!"
            await call.end(_plain(grpc.StatusCode.RESOURCE_EXHAUSTED, full))
        else:
            self._left -= 1
            try:
                await call.end(
                    await _in_time(method, call) if method.streams else await method.handle(call)
                )
            finally:
                self._left += 1


async def _in_time(method: Method, call: AsgiCall) -> Answer:
    """Answers a stream, which ends at its deadline; what is no stream keeps its deadline itself."""
    try:
        async with asyncio.timeout(call.time_remaining()):
            return await method.handle(call)
    except TimeoutError:
        return _plain(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


def _plain(code: grpc.StatusCode, message: str) -> Failed:
    """Returns a failure that Keyfold has no reason for."""
    return Failed(Status(code=code.value[0], message=message), code, "")
