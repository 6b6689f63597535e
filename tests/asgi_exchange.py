"""An ASGI server that is a test: one HTTP request to the application, message by message."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from typing import Any, Final

from keyfold_server.rpc.asgi import AsgiApp

GRPC: Final = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
"""The headers of each call of gRPC."""


def framed(message: bytes, *, packed: bool = False) -> bytes:
    """Returns a message as gRPC frames it."""
    return struct.pack(">BI", packed, len(message)) + message


class Exchange:
    """One HTTP request to the application, and what the application sends."""

    def __init__(self, *bodies: bytes, ends: bool = True, **scope: Any) -> None:
        plain = scope.pop("plain", GRPC)
        extra: Iterable[tuple[bytes, bytes]] = scope.pop("headers", ())
        self.scope = {
            "type": "http",
            "method": "POST",
            "http_version": "2",
            "path": "/s/M",
            "headers": [*plain, *extra],
            "client": ("192.0.2.1", 50_000),
            "extensions": {"http.response.trailers": {}},
        } | scope
        self.sent: list[dict[str, Any]] = []
        self.received = 0
        self.gone = asyncio.Event()
        self._bodies = list(bodies)
        self._ends = ends

    async def receive(self) -> dict[str, Any]:
        if self._bodies:
            self.received += 1
            body = self._bodies.pop(0)
            more = bool(self._bodies) or not self._ends
            return {"type": "http.request", "body": body, "more_body": more}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def run(self, app: AsgiApp) -> Exchange:
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def trailers(self) -> dict[bytes, bytes]:
        """The trailers, or the headers of an answer that has trailers alone."""
        return dict((self.sent[-1] if self.sent[0].get("trailers") else self.sent[0])["headers"])

    @property
    def code(self) -> int:
        return int(self.trailers[b"grpc-status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])
