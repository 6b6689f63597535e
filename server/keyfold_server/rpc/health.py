"""gRPC's health service: says whether this server serves, at the moment when somebody asks.

Invariant: what one watcher does not read holds up nobody else, neither another watcher nor the
server's stop. (grpcio's own servicer writes to watchers under a lock, which its `set` needs.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_Response = health_pb2.HealthCheckResponse
_Request = health_pb2.HealthCheckRequest

SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
"""The service that also answers callers without a credential, since probes have none."""

CHECK: Final = "Check"
"""The method that probes call."""


class Health(health_pb2_grpc.HealthServicer):
    """Answers `Check`, `List` and `Watch`; belongs to one event loop."""

    def __init__(self, serving: Callable[[], bool], services: Collection[str]) -> None:
        """Takes what says whether the server serves, and the names of its services."""
        self._serving = serving
        self._services = services
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Wakes the watchers, because the server may have begun or ceased to serve."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: _Request, context: Any) -> _Response:  # noqa: N802  gRPC's name
        """Answers whether the server serves."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this server has no such service")
        return _Response(status=self._status(request.service))

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802  gRPC's name
        """Answers as `Check` does, for every service."""
        del request, context
        statuses = {name: _Response(status=self._status(name)) for name in self._services}
        # By its name, because the type stubs do not have the message.
        kind = getattr(health_pb2, "HealthListResponse")  # noqa: B009
        return kind(statuses=statuses)

    async def Watch(self, request: _Request, context: Any) -> None:  # noqa: N802  gRPC's name
        """Writes the status, and each later one, until the caller or the server ends the call."""
        last = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != last:
                await context.write(_Response(status=status))
                last = status
            # The event is of before the write, which a slow reader may have held up.
            await changed.wait()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if self._serving() else _Response.NOT_SERVING
