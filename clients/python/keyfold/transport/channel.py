"""The gRPC channel to the servers: its target, its security, and which calls gRPC repeats."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import grpc

from keyfold.arguments import checked, wrong_value
from keyfold.calls.call import EVENTS, KEYS, OPERATIONS, ORGANIZATIONS
from keyfold.transport.target import Target, addresses_of, common_host, grpc_target, is_local
from keyfold.transport.tls import Certificates, Pems, Tls

_MAX_RESPONSE: Final = 64 * 1024 * 1024
"""Most bytes of a response. A page of large clusters is more than gRPC's default of 4 MiB."""

_MAX_REPEATED: Final = 5 * 1024 * 1024
"""Most bytes of a request that gRPC keeps to repeat it. By default it repeats none of more than
256 KiB."""

_READS: Final = ("GetOperation", "ListOperations", "WaitOperation")
"""The methods of operations that change nothing."""

_ATTEMPTS: Final = 4
"""Most attempts at one call, the first included. gRPC waits 0.1 to 1 s, jittered, between them."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The arguments of a gRPC channel.

    Attributes:
        target: The target in gRPC's own form.
        options: The channel's arguments.
        certificates: The certificates of TLS; None means plain text.
        addresses: The target's single addresses, as the caller wrote them.
    """

    target: str
    options: list[tuple[str, str | int]]
    certificates: Certificates | None
    addresses: tuple[str, ...]

    def channel(self) -> grpc.Channel:
        """Opens a channel, which any number of threads may use."""
        if self.certificates is None:
            return grpc.insecure_channel(self.target, self.options)
        credentials = self.certificates.pems.credentials()
        return grpc.secure_channel(self.target, credentials, self.options)

    def aio_channel(self) -> grpc.aio.Channel:
        """Opens a channel for the event loop that is running; no other loop may use it."""
        if self.certificates is None:
            return grpc.aio.insecure_channel(self.target, self.options)
        credentials = self.certificates.pems.credentials()
        return grpc.aio.secure_channel(self.target, credentials, self.options)

    def check_token(self) -> None:
        """Checks that a token may go here.

        Raises:
            ArgumentValueError: It would go over plain text to another machine.
        """
        if self.certificates is None:
            _check_local(self.addresses)

    def pems(self) -> Pems | None:
        """Returns the certificates for a new call. Another value than before is a renewed one."""
        return None if self.certificates is None else self.certificates.fresh()


@checked
def endpoint(target: Target, tls: Tls | None, *, with_token: bool = False) -> Endpoint:
    """Returns the arguments of the channel to a target.

    Without TLS the connection is plain text, which a server accepts only from its own machine.
    gRPC then ignores proxies that the environment names, because plaintext keys would pass
    through them.

    Args:
        target: The servers' address.
        tls: The certificates that secure the connection; None means plain text.
        with_token: Whether calls will carry a token, which anybody who reads it can use.

    Raises:
        ArgumentTypeError: The target or a part of `tls` has a type that is not taken.
        ArgumentValueError: The target is malformed, several hosts have no common server_name for
            TLS, or a token would go over plain text to another machine.
        FileUnreadableError: A file of `tls` cannot be read.
        UnavailableError: One of several host names does not resolve.
    """
    addresses = addresses_of(target)
    if with_token and tls is None:
        _check_local(addresses)
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", _service_config()),
        ("grpc.max_receive_message_length", _MAX_RESPONSE),
        ("grpc.per_rpc_retry_buffer_size", _MAX_REPEATED),
        # By default a channel would ignore a restarted replica for up to two minutes.
        ("grpc.max_reconnect_backoff_ms", 3_000),
    ]
    uri = grpc_target(addresses)
    if len(addresses) > 1:
        # Without these gRPC would expect the whole list as the server's name.
        name = common_host(addresses)
        if tls and not tls.server_name and name is None:
            raise wrong_value("several hosts with TLS need a server_name that all of them prove")
        authority = addresses[0] if name is None else name
        options.append(("grpc.default_authority", authority))
        if tls and name and not tls.server_name:
            options.append(("grpc.ssl_target_name_override", name))
    if tls is None:
        options.append(("grpc.enable_http_proxy", 0))
        return Endpoint(uri, options, None, tuple(addresses))
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return Endpoint(uri, options, Certificates(tls), tuple(addresses))


def _check_local(addresses: Iterable[str]) -> None:
    if not all(map(is_local, addresses)):
        raise wrong_value(
            "over plain text a token goes only to a loopback address or a unix socket, because "
            "anybody who reads it can use it; use TLS"
        )


def _service_config() -> str:
    """Returns gRPC's rules: calls go round all servers, and gRPC repeats an unavailable one.

    Repeating is safe for every method. Data-plane calls and reads change nothing, and a change
    always carries a request_id, by which the server recognises a repetition. UNAVAILABLE means
    only "not now". A server that is stopping answers CANCELLED to calls that still arrive.
    """
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [
                # A watch begins its stream again itself. Of a stream that gRPC repeats while its
                # server goes away, the end may never arrive, and then nothing cuts it either.
                {"name": [{"service": EVENTS, "method": "WatchEvents"}]},
                {
                    "name": [
                        *({"service": name} for name in (KEYS, EVENTS, ORGANIZATIONS)),
                        # To cancel or delete again what is cancelled or deleted is an error.
                        *({"service": OPERATIONS, "method": name} for name in _READS),
                    ],
                    "retryPolicy": {
                        "maxAttempts": _ATTEMPTS,
                        "initialBackoff": "0.1s",
                        "maxBackoff": "1s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                    },
                },
            ],
            # Once failures have used up half of these tokens, gRPC repeats nothing until calls
            # succeed again: repetitions must not bury a server that is down already.
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
        }
    )
