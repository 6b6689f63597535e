"""The server: Keyfold's service, health and reflection on one transport, until it drains."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from keyfold_server.rpc.call import Table
from keyfold_server.rpc.call_log import CallLog
from keyfold_server.rpc.handlers.data import DATA_METHODS
from keyfold_server.rpc.health import Health
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.incoming.door import Door
from keyfold_server.rpc.incoming.receiver import LOOK, Receiver
from keyfold_server.rpc.methods import SERVICES, Methods
from keyfold_server.rpc.standard_services import CHECKS, StandardServices
from keyfold_server.rpc.usage import counting
from keyfold_server.service.lane import PLACES
from keyfold_server.service.loop_watch import LoopWatch
from keyfold_server.service.readiness import Readiness
from keyfold_server.service.replica import Replica
from keyfold_server.service.watch.watches import PLACES as WATCHES
from keyfold_server.telemetry import NO_SPANS, Sampling

_LOOK_AT_HEALTH: Final = 0.5
"""Seconds between two looks at whether this replica may serve."""

_BEYOND: Final = 1_000
"""Calls that may be inside beyond those that may wait: health, reflection, and warm calls."""

_TURNED_AWAY: Final = 1_000
"""Calls that the transport lets in beyond all bounds, to be refused with a reason."""


class Transport(Protocol):
    """What carries calls to the handlers and their answers back, on one address."""

    async def start(self, table: Table, most: int) -> str:
        """Binds the address and serves; returns the address.

        Args:
            table: The methods.
            most: Calls that may be under way; the transport itself refuses further ones.

        Raises:
            SetupError: Another server has the address, or it cannot be bound.
        """
        ...

    async def stop(self) -> None:
        """Takes no further calls, and lets the calls under way finish within its grace.

        Before its first await it has told the clients to go elsewhere.
        """
        ...


class Server:
    """The server of one replica."""

    def __init__(
        self,
        replica: Replica,
        callers: Callers,
        transport: Transport,
        *,
        sampling: Sampling = NO_SPANS,
        call_log: CallLog | None = None,
        readiness: Readiness | None = None,
    ) -> None:
        """Joins the handlers to a transport; `start` serves.

        Args:
            replica: The service.
            callers: Identifies the caller of each call.
            transport: Carries the calls.
            sampling: Decides which calls get spans.
            call_log: Records each call; None keeps the metric alone.
            readiness: Learns when the server has started and when it stops; None if nobody else
                asks whether it serves.
        """
        bounds = replica.bounds
        # The handlers refuse with a reason, and leave room for Revoke (protocol R9). The
        # transport's own bound is for a flood beyond that.
        inside = _BEYOND + 2 * bounds.calls
        self._most = inside + PLACES + WATCHES + CHECKS + _TURNED_AWAY
        self._replica = replica
        self._transport = transport
        self._readiness = readiness or Readiness()
        self._door = Door(inside)
        self._receiver = Receiver(bounds, replica.clock)
        self._health = Health(lambda: not self._readiness.obstacle, ("", *SERVICES))
        self._shown = False
        self._standard = StandardServices(
            replica, callers, self._receiver, self._door, self._health, SERVICES
        )
        self._call_log = call_log or CallLog()
        self._call_log.also = counting(replica.usage_recorder, DATA_METHODS)
        self._methods = Methods(
            replica, callers, self._receiver, sampling, self._call_log, self._door
        )
        self._loop_watch = LoopWatch()
        self._keepers: tuple[asyncio.Task[None], ...] = ()

    async def start(self) -> str:
        """Serves on the transport's address; returns the address.

        Raises:
            SetupError: Another server has the address, or it cannot be bound.
        """
        table = self._methods.table() | self._standard.table()
        address = await self._transport.start(table, self._most)
        self._readiness.started(self._replica.check_serving, self._replica.supervisor)
        await self._show_health()
        self._loop_watch.start(self._replica.supervisor)
        supervised = self._replica.supervisor.start
        self._keepers = (
            supervised("show_health", self._show_health, _LOOK_AT_HEALTH),
            supervised("receive_timeout", self._receiver.give_up_late, LOOK),
        )
        return address

    async def stop(self) -> None:
        """Says NOT_SERVING, takes no further calls, and lets the calls under way finish."""
        keepers, self._keepers = self._keepers, ()
        if not keepers:
            return  # This server never listened, or has stopped.
        self._readiness.drain()
        await self._show_health()
        # Before anything else, while the connections are there to tell the readers to go on
        # elsewhere: a watch never ends by itself.
        self._replica.watches.drain()
        self._door.close()
        # Meanwhile the health service tells its watchers, before their streams end.
        await self._door.quiet()
        self._standard.end_streams()
        stopping = asyncio.create_task(self._transport.stop())
        await asyncio.sleep(0)  # Now the transport has told the clients to go elsewhere.
        self._door.open()
        await stopping
        # The replica writes its counts of uses when it stops, and needs those of the last calls.
        self._call_log.hand_over()
        self._loop_watch.stop()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    async def _show_health(self) -> None:
        serving = self._readiness.look()
        if serving is not self._shown:
            self._shown = serving
            self._health.changed()
