# Generated from aio/connection.py by `make client`; never edited.

"""One channel to the servers, and how a call goes over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import Lock
from types import TracebackType
from typing import Any, Self, cast

import grpc
from google.longrunning.operations_pb2_grpc import OperationsStub

from keyfold.calls.batches import Part
from keyfold.calls.call import EVENTS, KEYS, OPERATIONS, ORGANIZATIONS, Call, Response, Result
from keyfold.errors import ForkedError, KeyfoldError
from keyfold.errors.rpc_status import error_of_call
from keyfold.transport.caller import Caller, OnBehalfOf, Token
from keyfold.transport.channel import endpoint
from keyfold.transport.forks import forks
from keyfold.transport.target import DEFAULT_TARGET, Target
from keyfold.transport.timeouts import CONTROL_TIMEOUT, DATA_TIMEOUT, Timeouts
from keyfold.transport.tls import Tls
from keyfold.transport.tracing import client_span
from keyfold.v1.event_service_pb2_grpc import EventServiceStub
from keyfold.v1.key_management_service_pb2_grpc import KeyManagementServiceStub
from keyfold.v1.organization_service_pb2_grpc import OrganizationServiceStub

_Stubs = Mapping[
    str, KeyManagementServiceStub | EventServiceStub | OrganizationServiceStub | OperationsStub
]
"""The stubs of the services, by their full names."""


class Connection:
    """A channel to the servers. It sends calls and raises their failures as exceptions."""

    def __init__(
        self,
        target: Target = DEFAULT_TARGET,
        *,
        tls: Tls | None = None,
        token: Token | None = None,
        on_behalf_of: OnBehalfOf | None = None,
        timeout: float = DATA_TIMEOUT,
        control_timeout: float = CONTROL_TIMEOUT,
    ) -> None:
        """Makes a client, which connects when it makes its first call.

        Raises:
            TypeError: The token is neither a path nor a callable, or `on_behalf_of` is neither a
                string nor a callable.
            ValueError: The client cannot use the target, the TLS options, the token or the name,
                or the token would go over plain text to another machine.
            OSError: A file cannot be read, or one of several host names does not resolve.
        """
        self._caller = Caller(token, on_behalf_of)
        self._endpoint = endpoint(target, tls, with_token=self._caller.brings_token)
        self._timeouts = Timeouts(timeout, control_timeout)
        self._opening = Lock()
        self._opened: tuple[grpc.Channel, _Stubs] | None = None
        self._forks = forks()

    def _open(self) -> tuple[grpc.Channel, _Stubs]:
        """Returns the channel and its stubs, which the first call makes.

        Raises:
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
        if opened is not None:
            return opened
        # Under a lock, or two threads that make their first calls at once would open two channels.
        with self._opening:
            if self._opened is None:
                channel = self._endpoint.channel()
                stubs: _Stubs = {
                    KEYS: KeyManagementServiceStub(channel),
                    EVENTS: EventServiceStub(channel),
                    ORGANIZATIONS: OrganizationServiceStub(channel),
                    OPERATIONS: OperationsStub(channel),  # type: ignore[no-untyped-call]
                }
                self._opened = channel, stubs
            return self._opened

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and cancels the calls that are under way."""
        if self._opened is not None and self._forks != forks():
            return  # It is the parent's.
        channel, _ = self._open()
        channel.close()

    def send(self, call: Call[Response, Result], *, timeout: float | None = None) -> Response:
        """Sends a call of `keyfold.calls` and returns its response as the protobuf message."""
        _, stubs = self._open()
        method = getattr(stubs[call.service], call.method)
        limit = self._timeouts.of(call.plane, timeout)
        caller = self._caller.metadata()
        with client_span(call.method, call.service) as trace:
            try:
                response = method(call.request, timeout=limit, metadata=[*caller, *trace])
            except grpc.RpcError as failed:
                raise error_of_call(failed, call.request_id) from failed
        return cast("Response", response)

    def stream(self, call: Call[Response, Result]) -> Any:
        """Begins a call whose response is a stream, and returns gRPC's own call to iterate over."""
        _, stubs = self._open()
        method = getattr(stubs[call.service], call.method)
        return method(call.request, metadata=self._caller.metadata())

    def _ask(self, call: Call[Response, Result], timeout: float | None) -> Result:
        return call.read(self.send(call, timeout=timeout))

    def _batch(
        self, parts: Iterable[Part[Response, Result]], timeout: float | None
    ) -> list[Result | KeyfoldError]:
        results: list[Result | KeyfoldError] = []
        for part in parts:
            try:
                results += part.checked(self._ask(part.call, timeout))
            except KeyfoldError as error:
                results += part.failed(error)
        return results
