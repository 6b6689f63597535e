"""The address of `/livez`, `/readyz` and `/metrics`, over plain HTTP.

It asks for no credential, so no answer has anything but the operator's own names of targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from keyfold_relay.config import ConfigError
from keyfold_relay.delivery import Delivery
from keyfold_relay.meters import Meters

_AMISS: Final = ("parked", "stopped")


class Monitoring:
    """The pages of one relay.

    Args:
        meters: The metrics.
        deliveries: The targets.
    """

    def __init__(self, meters: Meters, deliveries: Sequence[Delivery]) -> None:
        self._meters = meters
        self._deliveries = deliveries
        self._runner: web.AppRunner | None = None

    async def open(self, address: str) -> None:
        """Serves on an address.

        Raises:
            ConfigError: The address cannot be bound.
        """
        host, _, port = address.rpartition(":")
        app = web.Application()
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise ConfigError(
                f"relay.monitoring: cannot serve on {address}: {error.strerror}; set another "
                "HOST:PORT"
            ) from None

    async def close(self) -> None:
        """Ends serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _live(self, _: web.Request) -> web.Response:
        """Answers that the event loop takes its turns."""
        return web.Response(text="live\n")

    async def _ready(self, _: web.Request) -> web.Response:
        """Answers 503 while a target is parked or stopped, and names each with its state."""
        lines = "".join(f"{one.name}: {one.state}\n" for one in self._deliveries)
        amiss = any(one.state in _AMISS for one in self._deliveries)
        return web.Response(text=lines, status=503 if amiss else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._meters.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
