"""One channel to the servers, and how a call goes over it."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self, cast

import grpc

from keyfold.calls import Answer, Call, Response
from keyfold.calls.batches import Part
from keyfold.errors import KeyfoldError
from keyfold.errors.rpc_status import error_of_call
from keyfold.transport.caller import Caller, OnBehalfOf, Token
from keyfold.transport.channel import DEFAULT_TARGET, Target, Tls, endpoint
from keyfold.transport.timeouts import CONTROL_TIMEOUT, DATA_TIMEOUT, Timeouts
from keyfold.transport.tracing import client_span
from keyfold.v1.key_management_service_pb2_grpc import KeyManagementServiceStub


class Connection:
    """A channel, the deadlines of calls that name none, and errors as exceptions."""

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
        """Makes a client; nothing is sent before the first call.

        Raises:
            TypeError: The token is a plain string, or something else that it cannot be.
            ValueError: The target, the TLS options or the token cannot be used, the token over
                plain text to another machine among them.
            OSError: A file cannot be read, or one of several names does not resolve.
        """
        self._caller = Caller(token, on_behalf_of)
        at = endpoint(target, tls, with_token=self._caller.brings_token)
        self._timeouts = Timeouts(timeout, control_timeout)
        self._channel = (
            grpc.insecure_channel(at.target, at.options)
            if at.credentials is None
            else grpc.secure_channel(at.target, at.credentials, at.options)
        )
        self._stub = KeyManagementServiceStub(self._channel)

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
        """Ends the connection; calls that are under way are cancelled."""
        self._channel.close()

    def send(self, call: Call[Response, Answer], *, timeout: float | None = None) -> Response:
        """Sends a call of `keyfold.calls` and returns the contract's message, unread."""
        method = getattr(self._stub, call.method)
        limit = self._timeouts.of(call.plane, timeout)
        who = self._caller.metadata()
        with client_span(call.method) as traced:
            try:
                answer = method(call.request, timeout=limit, metadata=[*who, *traced])
            except grpc.RpcError as failed:
                raise error_of_call(failed, call.request_id) from failed
        return cast("Response", answer)

    def _ask(self, call: Call[Response, Answer], timeout: float | None) -> Answer:
        return call.read(self.send(call, timeout=timeout))

    def _batch(
        self, parts: Iterable[Part[Response, Answer]], timeout: float | None
    ) -> list[Answer | KeyfoldError]:
        results: list[Answer | KeyfoldError] = []
        for part in parts:
            try:
                results += part.checked(self._ask(part.call, timeout))
            except KeyfoldError as error:
                results += part.failed(error)
        return results
