"""Sources: where a call without a credential comes from, so that its source can be bounded."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote


def source_of(peer: str) -> str:
    """Returns the source of a call: an IPv4 address, an IPv6 network, or `unix`.

    One machine can have any address of its IPv6 network, /64, so these addresses are one source.

    Args:
        peer: gRPC's name of the peer, such as `ipv4:192.0.2.1:50123`.
    """
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return "unix"
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return str(address)
