"""A gRPC server over mutual TLS that notes who calls, for tests of the client's certificates."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from cryptography import x509

from certificates import Authority, Issued
from keyfold.calls.call import EVENTS, KEYS
from keyfold.v1 import event_service_pb2 as events
from keyfold.v1 import key_management_service_pb2 as api


class Doorkeeper:
    """Answers GetStatus, and a watch with a heartbeat every 0.05 s.

    Attributes:
        target: The address.
        callers: The serial number of the certificate of each call so far.
        watchers: The same of each stream.
        tokens: The resume token of each stream.
        held: While it is clear, GetStatus of the cluster `slow` waits.
        arrived: Set when such a call has come.
    """

    def __init__(self) -> None:
        self.target = ""
        self.callers: list[int] = []
        self.watchers: list[int] = []
        self.tokens: list[str] = []
        self.held = threading.Event()
        self.arrived = threading.Event()

    def get_status(
        self, request: api.GetStatusRequest, context: grpc.ServicerContext
    ) -> api.GetStatusResponse:
        self.callers.append(_serial(context))
        if request.cluster == "slow":
            self.arrived.set()
            assert self.held.wait(20)
        response = api.GetStatusResponse()
        response.status.cluster = request.cluster
        return response

    def watch_events(
        self, request: events.WatchEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[events.WatchEventsResponse]:
        self.watchers.append(_serial(context))
        self.tokens.append(request.resume_token)
        ended = threading.Event()
        context.add_callback(ended.set)
        number = int(request.resume_token or 0)
        while not ended.wait(0.05):
            number += 1
            response = events.WatchEventsResponse(resume_token=str(number))
            response.heartbeat.number = number
            response.heartbeat.store_age.seconds = 0
            response.heartbeat.max_store_age.seconds = 60
            yield response


def _serial(context: grpc.ServicerContext) -> int:
    found: Any = context.auth_context()
    return x509.load_pem_x509_certificate(found["x509_pem_cert"][0]).serial_number


@contextmanager
def keeping(server: Issued, clients: Authority) -> Iterator[Doorkeeper]:
    """Serves until the block ends.

    Args:
        server: The server's certificate.
        clients: The authority that has to have issued the clients' certificates.
    """
    keeper = Doorkeeper()
    credentials = grpc.ssl_server_credentials(
        [(server.key_pem, server.pem)], clients.pem, require_client_auth=True
    )
    with ThreadPoolExecutor(8) as threads:
        running = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        status = grpc.unary_unary_rpc_method_handler(
            keeper.get_status,
            api.GetStatusRequest.FromString,
            api.GetStatusResponse.SerializeToString,
        )
        watch = grpc.unary_stream_rpc_method_handler(
            keeper.watch_events,
            events.WatchEventsRequest.FromString,
            events.WatchEventsResponse.SerializeToString,
        )
        running.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(KEYS, {"GetStatus": status}),
                grpc.method_handlers_generic_handler(EVENTS, {"WatchEvents": watch}),
            )
        )
        keeper.target = f"127.0.0.1:{running.add_secure_port('127.0.0.1:0', credentials)}"
        running.start()
        try:
            yield keeper
        finally:
            keeper.held.set()
            running.stop(None).wait()
