"""A gRPC relay between clients and a real server, which notes what clients send.

A test can make the relay answer in place of the server, or hold a call for a while. This is for
what a real server does not do on demand: be busy for exactly two calls, send an error of a later
release, take 0.3 s. The relay does not know what a call means, and passes everything else through
byte for byte.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, cast

import grpc
from google.longrunning import operations_proto_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from keyfold.v1 import (
    event_service_pb2,
    key_management_service_pb2,
    organization_service_pb2,
)
from wire_errors import WireError

_SERVICES: Final = (
    key_management_service_pb2.DESCRIPTOR.services_by_name["KeyManagementService"],
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
    organization_service_pb2.DESCRIPTOR.services_by_name["OrganizationService"],
    operations_proto_pb2.DESCRIPTOR.services_by_name["Operations"],
)

_ANY_SIZE: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


class Relay:
    """A relay that runs as long as its block.

    Attributes:
        target: The address that clients connect to.
        requests: Every request so far, by method.
        metadata: The metadata of each of them.
        delays: Seconds for which the relay holds every call of a method.
        holds: What the relay waits for with every call of a method.
    """

    def __init__(self, behind: str, credentials: grpc.ServerCredentials | None = None) -> None:
        """Prepares a relay.

        Args:
            behind: The real server's address.
            credentials: The certificate with which the relay ends TLS, as a proxy may.
        """
        self.target = ""
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.metadata: dict[str, list[dict[str, str | bytes]]] = defaultdict(list)
        self.delays: dict[str, float] = {}
        self.holds: dict[str, Callable[[], object]] = {}
        self._behind = behind
        self._credentials = credentials
        self._errors: dict[str, deque[WireError | None]] = defaultdict(deque)
        self._arrived = threading.Condition()

    def fail(self, method: str, *errors: WireError | None) -> None:
        """Answers the next calls of a method with these errors, in order; None passes one on."""
        with self._arrived:
            self._errors[method].extend(errors)

    def await_requests(self, method: str, count: int) -> None:
        """Waits until clients have called a method so often, at most 10 s."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests[method]) >= count, 10)

    def start(self) -> None:
        """Listens on a free port."""
        self._channel = grpc.insecure_channel(
            self._behind, options=[("grpc.use_local_subchannel_pool", 1), *_ANY_SIZE]
        )
        self._executor = ThreadPoolExecutor(8)
        self._server = grpc.server(self._executor, options=[("grpc.so_reuseport", 0), *_ANY_SIZE])
        for service in _SERVICES:
            handlers = {
                method.name: self._handler(method)
                for method in service.methods
                if not method.server_streaming
            }
            generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
            self._server.add_generic_rpc_handlers((generic,))
        if self._credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", self._credentials)
        self.target = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        """Ends what is under way, and listens no more."""
        self._server.stop(None).wait()
        self._executor.shutdown()
        self._channel.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _handler(self, described: MethodDescriptor) -> grpc.RpcMethodHandler[bytes, bytes]:
        method, kind = described.name, GetMessageClass(described.input_type)
        path = f"/{described.containing_service.full_name}/{method}"
        onward: Callable[..., bytes] = self._channel.unary_unary(path)

        def relay(request: bytes, context: grpc.ServicerContext) -> bytes:
            error = self._note(method, kind.FromString(request), context)
            time.sleep(self.delays.get(method, 0))
            self.holds.get(method, bool)()
            if error is not None:
                context.abort_with_status(rpc_status.to_status(error.status()))
            return _passed_on(onward, request, context)

        return grpc.unary_unary_rpc_method_handler(relay)

    def _note(
        self, method: str, request: Message, context: grpc.ServicerContext
    ) -> WireError | None:
        """Notes a request; returns the error that a test wants for it."""
        with self._arrived:
            self.requests[method].append(request)
            self.metadata[method].append(dict(context.invocation_metadata()))
            errors = self._errors[method]
            error = errors.popleft() if errors else None
            self._arrived.notify_all()
            return error


@dataclass
class _Status(grpc.Status):
    """A status with whatever details came with it."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: Any


def _passed_on(
    onward: Callable[..., bytes], request: bytes, context: grpc.ServicerContext
) -> bytes:
    metadata = [(k, v) for k, v in context.invocation_metadata() if k != "user-agent"]
    try:
        return onward(request, timeout=context.time_remaining(), metadata=metadata)
    except grpc.RpcError as error:
        call = cast("grpc.Call", error)
        status = _Status(call.code(), call.details() or "", call.trailing_metadata())
        context.abort_with_status(status)
