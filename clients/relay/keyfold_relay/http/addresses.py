"""Which addresses a request may go to.

Whoever can write a target's url, or answer for its name in DNS, must not make the relay call what
only the relay's machine can reach: its own loopback, its network, or the metadata service of its
cloud, which hands out credentials. So only public addresses are allowed, and the networks that the
target lists.

Invariant: the rule looks at the very address that the socket is about to connect to. A name that
resolves to another address a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any, Final

from keyfold_relay.config.model import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv6 addresses that a gateway translates into the IPv4 address of their last 32 bits."""
_NOT_PUBLIC: Final[Iterable[Network]] = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # with the metadata service of Oracle Cloud
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 with a prefix of the network's own
    ipaddress.IPv6Network("3fff::/20"),
    ipaddress.IPv6Network("5f00::/16"),
)
"""Networks that older releases of Python take for public ones."""

# Neither text has the address: of several errors with one text, aiohttp raises the first, and
# otherwise an error of its own in their place.
PLAIN: Final = (
    "plain http may go only to a loopback address that allow_addresses lists; use https, and check "
    "what the host's name resolves to"
)
NOT_PUBLIC: Final = (
    "its address is not public, such as one of this machine, of a private network or of a cloud's "
    "metadata service; if the target may be there, list its network in allow_addresses"
)


class ForbiddenAddressError(OSError):
    """A request would go to an address that the target does not allow."""


class Addresses:
    """The rule of one target.

    Args:
        allowed: Networks that are allowed although they are not public.
        plain: Whether requests are plain http, which may go only to listed loopback addresses.
    """

    def __init__(self, allowed: Iterable[Network] = (), *, plain: bool = False) -> None:
        self._allowed = tuple(allowed)
        self._plain = plain

    def check(self, written: str) -> None:
        """Checks an address that a socket is about to connect to.

        Raises:
            ForbiddenAddressError: It is not allowed.
        """
        address = _inner(ipaddress.ip_address(written.partition("%")[0]))
        listed = _is_in(address, self._allowed)
        if self._plain and not (listed and address.is_loopback):
            raise ForbiddenAddressError(PLAIN)
        public = address.is_global and not address.is_multicast
        if not listed and (not public or _is_in(address, _NOT_PUBLIC)):
            raise ForbiddenAddressError(NOT_PUBLIC)

    def socket(self, found: tuple[Any, ...]) -> socket.socket:
        """Returns a socket for an address that was looked up, as aiohttp's `socket_factory`.

        Raises:
            ForbiddenAddressError: The address is not allowed.
        """
        family, kind, protocol, _, address = found
        self.check(str(address[0]))
        return socket.socket(family=family, type=kind, proto=protocol)


def _inner(address: Address) -> Address:
    """Returns the IPv4 address to which an IPv6 address leads, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == each.version and address in each for each in networks)
