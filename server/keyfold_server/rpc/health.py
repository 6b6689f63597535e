"""gRPC's health service: says whether this server serves, at the moment when somebody asks.

Invariant: what one watcher does not read holds up nobody else, neither another watcher nor the
server's stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from grpc_health.v1 import health_pb2

_Response = health_pb2.HealthCheckResponse

SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
"""The service that also answers callers without a credential, since probes have none."""

CHECK: Final = "Check"
"""The method that probes call."""


class Health:
    """The health of one server; belongs to one event loop."""

    def __init__(self, serving: Callable[[], bool], services: Collection[str]) -> None:
        """Takes what says whether the server serves, and the names of its services."""
        self._serving = serving
        self._services = services
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Wakes the watchers, because the server may have begun or ceased to serve."""
        self._changed.set()
        self._changed = asyncio.Event()

    def check(self, service: str) -> bytes | None:
        """Returns the reply that says whether the server serves; None for an unknown service."""
        if service not in self._services:
            return None
        return _Response(status=self._status(service)).SerializeToString()

    def list(self) -> bytes:
        """Returns the reply that says it for every service."""
        statuses = {name: _Response(status=self._status(name)) for name in self._services}
        # By its name, because the type stubs do not have the message.
        kind = getattr(health_pb2, "HealthListResponse")  # noqa: B009
        reply: bytes = kind(statuses=statuses).SerializeToString()
        return reply

    async def watch(self, service: str, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Writes the status, and each later one, until the caller or the server ends the call."""
        last = None
        while True:
            changed, status = self._changed, self._status(service)
            if status != last:
                await write(_Response(status=status).SerializeToString())
                last = status
            # The event is of before the write, which a slow reader may have held up.
            await changed.wait()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if self._serving() else _Response.NOT_SERVING
