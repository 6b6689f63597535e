"""One channel to the servers, and how a call goes over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self, cast

import grpc
from google.longrunning.operations_pb2_grpc import OperationsStub

from keyfold.arguments import wrong_type
from keyfold.calls.batches import Part
from keyfold.calls.call import (
    EVENTS,
    KEYS,
    OPERATIONS,
    ORGANIZATIONS,
    Call,
    Plane,
    Response,
    Result,
)
from keyfold.coalescing.lane import CallerMetadata
from keyfold.coalescing.tasks import AsyncCoalescer
from keyfold.errors import ForkedError, KeyfoldError
from keyfold.models.specs import Context
from keyfold.transport.caller import Caller, OnBehalfOf, Token
from keyfold.transport.channel import endpoint
from keyfold.transport.failures import FAILURES, about, closed_error, failure_of
from keyfold.transport.forks import forks
from keyfold.transport.loops import async_this_loop, elsewhere
from keyfold.transport.target import DEFAULT_TARGET, Target
from keyfold.transport.timeouts import CONTROL_TIMEOUT, DATA_TIMEOUT, Timeouts
from keyfold.transport.tls import Tls
from keyfold.transport.tracing import Link, client_span
from keyfold.v1.event_service_pb2_grpc import EventServiceStub
from keyfold.v1.key_management_service_pb2_grpc import KeyManagementServiceStub
from keyfold.v1.organization_service_pb2_grpc import OrganizationServiceStub

_Stubs = Mapping[
    str, KeyManagementServiceStub | EventServiceStub | OrganizationServiceStub | OperationsStub
]
"""The stubs of the services, by their full names."""


class Connection:
    """A channel to the servers. It sends calls and raises their failures as exceptions.

    Attributes:
        timeouts: The deadlines of calls that do not set their own.
    """

    def __init__(
        self,
        target: Target = DEFAULT_TARGET,
        *,
        tls: Tls | None = None,
        token: Token | None = None,
        on_behalf_of: OnBehalfOf | None = None,
        timeout: float = DATA_TIMEOUT,
        control_timeout: float = CONTROL_TIMEOUT,
        coalesce: bool = False,
    ) -> None:
        """Makes a client, which connects when it makes its first call.

        Raises:
            ArgumentTypeError: An argument has a type that is not taken, such as a token that is
                neither a path nor a callable.
            ArgumentValueError: The client cannot use the target, the TLS options, the token or the
                name, or the token would go over plain text to another machine.
            FileUnreadableError: A file cannot be read.
            UnavailableError: One of several host names does not resolve.
        """
        self._caller = Caller(token, on_behalf_of)
        self._endpoint = endpoint(target, tls, with_token=self._caller.brings_token)
        self.timeouts: Final = Timeouts.of_client(timeout, control_timeout)
        if not isinstance(coalesce, bool):
            raise wrong_type("coalesce", "bool", coalesce)
        self._coalescer = AsyncCoalescer() if coalesce else None
        self._opening = Lock()
        self._opened: tuple[grpc.aio.Channel, _Stubs, object] | None = None
        self._closed = False
        self._forks = forks()

    def _open(self) -> tuple[grpc.aio.Channel, _Stubs]:
        """Returns the channel and its stubs, which the first call makes.

        Raises:
            ClosedError: The client is closed.
            EventLoopError: It was in use on another event loop.
            ForkedError: Calls were made before this process was forked.
        """
        opened = self._opened
        if self._forks != forks():
            if opened is not None:
                raise ForkedError(
                    "this client was in use before the process was forked, and its connection "
                    "stayed in the parent; make the client after the fork",
                    code="FAILED_PRECONDITION",
                )
            # Nothing was opened, so the child may; but a thread of the parent may hold the lock.
            self._opening, self._forks = Lock(), forks()
        if opened is None:
            opened = self._first()
        channel, stubs, loop = opened
        if self._closed:
            raise closed_error()
        if loop is not async_this_loop():
            raise elsewhere()
        return channel, stubs

    def _first(self) -> tuple[grpc.aio.Channel, _Stubs, object]:
        # Under a lock, or two threads that make their first calls at once would open two channels.
        with self._opening:
            if self._closed:
                raise closed_error()
            if self._opened is None:
                channel = self._endpoint.aio_channel()
                stubs: _Stubs = {
                    KEYS: KeyManagementServiceStub(channel),
                    EVENTS: EventServiceStub(channel),
                    ORGANIZATIONS: OrganizationServiceStub(channel),
                    OPERATIONS: OperationsStub(channel),  # type: ignore[no-untyped-call]
                }
                self._opened = channel, stubs, async_this_loop()
            return self._opened

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection and cancels the calls that are under way.

        Closing it again does nothing. A later call raises `ClosedError`.
        """
        if self._forks != forks():
            self._closed = True
            return  # The channel is the parent's, and one of its threads may hold the lock.
        with self._opening:
            self._closed = True
            opened = self._opened
        if self._coalescer is not None:
            self._coalescer.close()
        if opened is not None:
            await opened[0].close()

    async def send(
        self,
        call: Call[Response, Result],
        *,
        timeout: float | None = None,
        caller: CallerMetadata | None = None,
        links: Sequence[Link] = (),
    ) -> Response:
        """Sends a call of `keyfold.calls` and returns its response as the protobuf message.

        Args:
            call: The call.
            timeout: Seconds that it may take; None: the client's.
            caller: What it says of its caller; None: what the client was made with.
            links: For a batch, links to the spans of its calls.
        """
        with client_span(call.method, call.service, links) as trace:
            try:
                _, stubs = self._open()
                method = getattr(stubs[call.service], call.method)
                limit = self.timeouts.of(call.plane, timeout)
                if caller is None:
                    caller = self._caller.metadata()
                response = await method(call.request, timeout=limit, metadata=[*caller, *trace])
            except KeyfoldError as error:
                about(error, call)
                raise
            except FAILURES as failed:
                raise self.failure(failed, call) from failed
        return cast("Response", response)

    def failure(self, failed: BaseException, call: Call[Response, Result]) -> BaseException:
        """Returns the error of a call that failed with one of `FAILURES`."""
        return failure_of(failed, call, closed=self._closed)

    def stream(self, call: Call[Response, Result]) -> Any:
        """Begins a call whose response is a stream, and returns gRPC's own call to iterate over."""
        _, stubs = self._open()
        method = getattr(stubs[call.service], call.method)
        return method(call.request, metadata=self._caller.metadata())

    async def _ask(self, call: Call[Response, Result], timeout: float | None) -> Result:
        return call.result(await self.send(call, timeout=timeout))

    async def _ask_together(
        self, call: Call[Response, Result], context: Context | None, timeout: float | None
    ) -> Result:
        """Makes a call about one key, which may travel with others if the client coalesces."""
        if self._coalescer is None:
            return call.result(await self.send(call, timeout=timeout))
        try:
            self._open()  # It raises where nobody may touch what the parent's threads hold.
            limit = self.timeouts.of(call.plane, timeout)
            caller = self._caller.metadata()
        except KeyfoldError as error:
            about(error, call)
            raise
        return await self._coalescer.ask(self, call, dict(context or {}), limit, caller)

    async def _batch(
        self, parts: Iterable[Part[Response, Result]], timeout: float | None
    ) -> list[Result | KeyfoldError]:
        self.timeouts.of(Plane.DATA, timeout)  # It raises, and is no fault of an item.
        results: list[Result | KeyfoldError] = []
        for part in parts:
            try:
                results += part.checked(await self._ask(part.call, timeout))
            except KeyfoldError as error:
                results += part.failed(error)
        return results
