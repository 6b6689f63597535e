"""Where the servers are, how the connection is secured, and what gRPC may repeat."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import grpc

Target: TypeAlias = str | Sequence[str]
"""`host:port`, `unix:/path`, or several `host:port`, as a list or with commas between."""

DEFAULT_TARGET: Final = "127.0.0.1:7443"
"""Where a server listens that was told nothing else."""

SERVICE: Final = "keyfold.v1.KeyManagementService"
"""The service's full name, as it stands in the path of each call."""

_MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of an answer; a page of large clusters is more than gRPC's 4 MiB."""

_ATTEMPTS: Final = 4
"""Of one call, the first included; between them pass 0.1 to 1 s, jittered."""

_SCHEME: Final = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):")


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server proves itself, and the client to it. Each part is a path, or PEM bytes.

    Attributes:
        ca: The authorities that may sign the server's certificate; None takes the system's.
        cert: The client's certificate chain, for mutual TLS.
        key: The client's private key, for mutual TLS.
        server_name: The name that the server's certificate must hold, where it is not the
            target's.
    """

    ca: str | os.PathLike[str] | bytes | None = None
    cert: str | os.PathLike[str] | bytes | None = None
    key: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns gRPC's form.

        Raises:
            ValueError: Only one of certificate and key is given.
            OSError: A file cannot be read.
        """
        if (self.cert is None) != (self.key is None):
            raise ValueError("a client certificate and its key are given together or not at all")
        return grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.cert))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a gRPC channel is made of.

    Attributes:
        target: The target in gRPC's own form.
        options: The channel's arguments.
        credentials: How it is secured; None means plain text.
    """

    target: str
    options: list[tuple[str, str | int]]
    credentials: grpc.ChannelCredentials | None


def endpoint(target: Target, tls: Tls | None, *, with_token: bool = False) -> Endpoint:
    """Returns what the channel to a target is made of.

    Without TLS the connection is plain text. A server allows that on its own machine alone, and
    no proxy from the environment is used then: plaintext keys would pass through it.

    Args:
        target: Where the servers are.
        tls: How the connection is secured; None is plain text.
        with_token: Whether calls will carry a token, which whoever reads it can use.

    Raises:
        ValueError: The target cannot be understood, or a token would leave the machine in plain.
        OSError: One of several names does not resolve, or a file of `tls` cannot be read.
    """
    given = target.split(",") if isinstance(target, str) else target
    addresses = [address.strip() for address in given]
    if with_token and tls is None and not all(map(_is_local, addresses)):
        raise ValueError(
            "a token goes over plain text to a loopback address or a unix socket alone, since "
            "whoever reads it can use it; use TLS"
        )
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", _service_config()),
        ("grpc.max_receive_message_length", _MAX_ANSWER),
        # Or a replica that was restarted would stay idle for up to two minutes.
        ("grpc.max_reconnect_backoff_ms", 3_000),
    ]
    if len(addresses) == 1:
        [address] = addresses
        uri = address if _SCHEME.match(address) else f"dns:///{':'.join(_host_port(address))}"
    else:
        uri = _several(addresses)
        # gRPC would take the whole list for the name of the server.
        name = _common_host(addresses)
        if tls and not tls.server_name and name is None:
            raise ValueError("several addresses with TLS need the server_name they all prove")
        authority = addresses[0] if name is None else name
        options.append(("grpc.default_authority", authority))
        if tls and name and not tls.server_name:
            options.append(("grpc.ssl_target_name_override", name))
    if tls is None:
        options.append(("grpc.enable_http_proxy", 0))
        return Endpoint(uri, options, None)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return Endpoint(uri, options, tls.credentials())


def _several(addresses: Iterable[str]) -> str:
    """Returns the target of several servers; gRPC wants numbers there, all of one family."""
    # All are looked at before any name is asked for.
    numbers = [_resolve(*pair) for pair in [_host_port(address) for address in addresses]]
    families = {number.version for number, _ in numbers}
    if len(families) > 1:
        raise ValueError("several addresses must be all IPv4 or all IPv6")
    if families == {6}:
        return "ipv6:" + ",".join(f"[{number}]:{port}" for number, port in numbers)
    return "ipv4:" + ",".join(f"{number}:{port}" for number, port in numbers)


def _resolve(host: str, port: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, str]:
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    # IPv4 first, so that names which have both fit together.
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    return ipaddress.ip_address(found[0][4][0]), port


def _host_port(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host or _SCHEME.match(address):
        raise ValueError(f"{address!r} is not host:port or unix:/path")
    return host, port


def _common_host(addresses: Iterable[str]) -> str | None:
    hosts = {_host_port(address)[0].strip("[]") for address in addresses}
    return hosts.pop() if len(hosts) == 1 else None


def _is_local(address: str) -> bool:
    """Says whether plain text to an address stays on this machine; what is unclear does not."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    if _SCHEME.match(address):
        return False
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _pem(part: str | os.PathLike[str] | bytes | None) -> bytes | None:
    return part if part is None or isinstance(part, bytes) else Path(part).read_bytes()


def _service_config() -> str:
    """Returns gRPC's rules: calls go round all servers, and an unavailable one is tried again.

    Repeating is safe for every method. Data-plane calls have no effect but their answer, reads
    none at all, and a change always carries a request_id, by which the server sees that it is
    the same one (`calls`). UNAVAILABLE says "not now" and nothing else; CANCELLED from a server is
    what gRPC answers to a call that arrives while it stops.
    """
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [
                {
                    "name": [{"service": SERVICE}],
                    "retryPolicy": {
                        "maxAttempts": _ATTEMPTS,
                        "initialBackoff": "0.1s",
                        "maxBackoff": "1s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                    },
                }
            ],
            # Once half of these tokens are used up by failures, nothing is repeated until calls
            # succeed again: repetitions must not bury a server that is down already.
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
        }
    )
