"""Asks a running server for its health, through gRPC's standard health service.

`keyfold-server health` uses it, for example as a container's health check, where there is neither
a shell nor any other tool. It knows nothing of the server but the address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import grpc
from grpc_health.v1 import health_pb2

SERVING: Final = "SERVING"
"""The answer of a server that may use keys."""

NOT_SERVING: Final = "NOT_SERVING"
"""The answer of a server that must not use keys now."""

_CHECK: Final = "/grpc.health.v1.Health/Check"

_OPTIONS: Final = (
    # The server is on this machine, where a proxy of the environment could not reach it.
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates with which to connect to a server that has TLS, all in PEM.

    Attributes:
        ca: The certificates that the server may show, and the authorities that may have issued it.
        cert: The client certificate, if the server asks for one.
        key: The private key of `cert`.
        name: The name that the server's certificate must hold.
    """

    ca: bytes
    cert: bytes | None
    key: bytes | None = field(repr=False)
    name: str


def health(target: str, timeout: float, tls: Tls | None = None) -> str:
    """Asks a server for its health.

    Args:
        target: `HOST:PORT`, `unix:` and a path, or what `health_socket.of` returned.
        timeout: Seconds to wait for the answer, including the time to connect.
        tls: The settings of a TLS connection; None connects without TLS.

    Returns:
        `SERVING`, `NOT_SERVING`, or one line that says why no answer came.
    """
    with _channel(target, tls) as channel:
        check = channel.unary_unary(
            _CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _channel(target: str, tls: Tls | None) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
    named = ("grpc.ssl_target_name_override", tls.name)
    return grpc.secure_channel(target, credentials, options=(*_OPTIONS, named))
