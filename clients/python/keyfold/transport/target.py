"""The address of one or several servers, and its form in gRPC."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from keyfold.arguments import wrong_value
from keyfold.errors import UnavailableError

Target: TypeAlias = str | Sequence[str]
"""`host:port`, `unix:/path`, or several `host:port`, in a list or separated by commas."""

DEFAULT_TARGET: Final = "127.0.0.1:7443"
"""Where a server listens by default."""

_SCHEME: Final = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):")


def addresses_of(target: Target) -> list[str]:
    """Returns the single addresses of a target.

    Raises:
        ArgumentValueError: There is none.
    """
    given = target.split(",") if isinstance(target, str) else target
    if not given:
        raise wrong_value("target has no address; pass host:port or unix:/path")
    return [address.strip() for address in given]


def grpc_target(addresses: Sequence[str]) -> str:
    """Returns the target that gRPC takes for one address or several.

    Raises:
        ArgumentValueError: An address is malformed, or several are not all IPv4 or all IPv6.
        UnavailableError: One of several host names does not resolve.
    """
    if len(addresses) > 1:
        return _several(addresses)
    [address] = addresses
    return address if _SCHEME.match(address) else f"dns:///{':'.join(_host_port(address))}"


def common_host(addresses: Iterable[str]) -> str | None:
    """Returns the host of all addresses, or None if they have different ones."""
    hosts = {_host_port(address)[0].strip("[]") for address in addresses}
    return hosts.pop() if len(hosts) == 1 else None


def is_local(address: str) -> bool:
    """Returns whether plain text to an address surely stays on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    if _SCHEME.match(address):
        return False
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _several(addresses: Iterable[str]) -> str:
    """Returns the target of several servers: gRPC takes IP addresses, all of one family."""
    # Check the form of all addresses before any name is looked up.
    pairs = [_host_port(address) for address in addresses]
    found = [_resolve(*pair) for pair in pairs]
    families = {address.version for address, _ in found}
    if len(families) > 1:
        raise wrong_value("several addresses must be all IPv4 or all IPv6")
    if families == {6}:
        return "ipv6:" + ",".join(f"[{address}]:{port}" for address, port in found)
    return "ipv4:" + ",".join(f"{address}:{port}" for address, port in found)


def _resolve(host: str, port: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, str]:
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        why = error.strerror or type(error).__name__
        message = f"the address of {host} cannot be found: {why}"
        raise UnavailableError(message, code="UNAVAILABLE") from error
    # IPv4 first, so that names which have both families go together.
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    return ipaddress.ip_address(found[0][4][0]), port


def _host_port(address: str) -> tuple[str, str]:
    if "@" in address:
        # What stands before it may be a password, so the message does not repeat the address.
        raise wrong_value("the address has an @: give host:port alone, and credentials apart")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host or _SCHEME.match(address):
        raise wrong_value(f"{address!r} is not host:port or unix:/path")
    return host, port
