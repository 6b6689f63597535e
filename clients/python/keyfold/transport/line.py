"""The line to the servers: one channel and its stubs, until the certificates are renewed.

gRPC has no way to give a channel other certificates (grpc/grpc#41779), so they get another one. The
channel before it ends with the last call that goes over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, TypeAlias
from weakref import WeakSet

import grpc
from google.longrunning.operations_pb2_grpc import OperationsStub

from keyfold.calls.call import EVENTS, KEYS, OPERATIONS, ORGANIZATIONS
from keyfold.errors import ForkedError
from keyfold.transport.channel import Endpoint
from keyfold.transport.failures import closed_error
from keyfold.transport.forks import forks
from keyfold.transport.loops import elsewhere
from keyfold.transport.tls import Pems
from keyfold.v1.event_service_pb2_grpc import EventServiceStub
from keyfold.v1.key_management_service_pb2_grpc import KeyManagementServiceStub
from keyfold.v1.organization_service_pb2_grpc import OrganizationServiceStub

Stubs: TypeAlias = Mapping[
    str, KeyManagementServiceStub | EventServiceStub | OrganizationServiceStub | OperationsStub
]
"""The stubs of the services, by their full names."""

Channel: TypeAlias = Any
"""A channel of gRPC, synchronous or of asyncio."""


class Line:
    """A channel and its stubs. Whoever makes a call holds on to it until the call has ended.

    Attributes:
        channel: The channel.
        stubs: Its stubs.
        pems: The certificates that it was opened with; None without TLS.
        loop: The event loop that it belongs to; None for a synchronous one.
    """

    __slots__ = ("__weakref__", "_forks", "channel", "loop", "pems", "stubs")

    def __init__(self, channel: Channel, pems: Pems | None, loop: object) -> None:
        """Takes a channel."""
        self.channel = channel
        self.pems = pems
        self.loop = loop
        self.stubs: Stubs = {
            KEYS: KeyManagementServiceStub(channel),
            EVENTS: EventServiceStub(channel),
            ORGANIZATIONS: OrganizationServiceStub(channel),
            OPERATIONS: OperationsStub(channel),  # type: ignore[no-untyped-call]
        }
        self._forks = forks()

    def __del__(self) -> None:
        # A channel of asyncio closes itself. In a forked child it is the parent's, and would hang.
        if self._forks == forks() and isinstance(self.channel, grpc.Channel):
            with suppress(Exception):  # the interpreter may be ending
                self.channel.close()


class Lines:
    """The lines of one client, of which the newest takes calls. Threads may share it.

    Attributes:
        closed: Whether the client is closed.
    """

    def __init__(
        self, endpoint: Endpoint, opens: Callable[[], Channel], here: Callable[[], object]
    ) -> None:
        """Prepares the first line, which the first call opens.

        Args:
            endpoint: Where the lines lead.
            opens: Opens a channel to the endpoint.
            here: Returns the event loop that is running; None for a synchronous client.
        """
        self._endpoint = endpoint
        self._opens = opens
        self._here = here
        self._opening = Lock()
        self._line: Line | None = None
        self._all: WeakSet[Line] = WeakSet()
        self.closed = False
        self._forks = forks()

    def line(self) -> Line:
        """Returns the line for a new call or stream.

        Raises:
            ClosedError: The client is closed.
            EventLoopError: It was in use on another event loop.
            ForkedError: Calls were made before this process was forked.
        """
        line = self._line
        if self._forks != forks():
            if line is not None:
                raise ForkedError(
                    "this client was in use before the process was forked, and its connection "
                    "stayed in the parent; make the client after the fork",
                    code="FAILED_PRECONDITION",
                )
            # Nothing was opened, so the child may; but a thread of the parent may hold the lock.
            self._opening, self._forks = Lock(), forks()
        pems = self._endpoint.pems()
        if line is None or line.pems is not pems:
            line = self._newest()
        if self.closed:
            raise closed_error()
        if line.loop is not self._here():
            raise elsewhere()
        return line

    def _newest(self) -> Line:
        # Under a lock, or two threads that make their first calls at once would open two channels.
        with self._opening:
            pems, line, here = self._endpoint.pems(), self._line, self._here()
            if self.closed:
                raise closed_error()
            if line is None or (line.pems is not pems and line.loop is here):
                line = self._line = Line(self._opens(), pems, here)
                self._all.add(line)
            return line

    def close(self) -> list[Channel]:
        """Takes no calls from now on, and returns the channels to close."""
        if self._forks != forks():
            self.closed = True
            return []  # They are the parent's, and one of its threads may hold the lock.
        with self._opening:
            self.closed = True
            return [line.channel for line in self._all]
