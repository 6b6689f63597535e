"""The Keyfold in memory behind a real gRPC server on this machine.

Any call can be made to fail or to wait, and every request is kept with its metadata.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_status import rpc_status

from fake_failures import Failure
from fake_service import MAX_BATCH_BYTES, Toy
from keyfold.v1 import key_management_service_pb2_grpc as service


@dataclass
class FakeServer:
    """A running server.

    Attributes:
        target: What a client connects to.
        requests: Every request, by method.
        metadata: What came along with each of them.
        failures: What the next calls of a method meet, in order; None is a call that works.
        delays: Seconds that every call of a method waits first.
        credentials: The server's certificate, where it shall use TLS.
        toy: The Keyfold behind it. What a test changes in there, clients see.
        arrived: Told of every request.
    """

    address: str = "127.0.0.1:0"
    target: str = ""
    requests: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    metadata: dict[str, list[dict[str, str | bytes]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    failures: dict[str, deque[Failure | None]] = field(default_factory=lambda: defaultdict(deque))
    delays: dict[str, float] = field(default_factory=dict)
    credentials: grpc.ServerCredentials | None = None
    toy: Toy = field(default_factory=Toy)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> Self:
        self._executor = ThreadPoolExecutor(8)
        self._server = grpc.server(
            self._executor,
            interceptors=[_Interceptor(self)],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_BATCH_BYTES + 1024),
            ],
        )
        service.add_KeyManagementServiceServicer_to_server(self.toy, self._server)
        if self.credentials is None:
            port = self._server.add_insecure_port(self.address)
        else:
            port = self._server.add_secure_port(self.address, self.credentials)
        unix = self.address.startswith("unix:")
        self.target = self.address if unix else f"127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop(None).wait()
        self._executor.shutdown()

    def await_requests(self, method: str, count: int) -> None:
        """Waits until a method was asked so often, at most 10 s."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.requests[method]) >= count, 10)

    def fail(self, method: str, *failures: Failure | None) -> None:
        self.failures[method].extend(failures)


class _Interceptor(grpc.ServerInterceptor):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = continuation(details)
        method = details.method.rpartition("/")[2]

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            with self._server.arrived:
                self._server.requests[method].append(request)
                self._server.metadata[method].append(dict(context.invocation_metadata()))
                planned = self._server.failures[method]
                failure = planned.popleft() if planned else None
                self._server.arrived.notify_all()
            time.sleep(self._server.delays.get(method, 0))
            try:
                if failure:
                    raise failure
                return handler.unary_unary(request, context)
            except Failure as failed:
                context.abort_with_status(rpc_status.to_status(failed.status()))

        return grpc.unary_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )


def numbered_keys(count: int, size: int = 32) -> list[bytes]:
    """Returns keys that tell their place in a batch."""
    return [number.to_bytes(4, "big") * (size // 4) for number in range(count)]
