"""The socket at which a server with mutual TLS answers the health command of its own machine.

The handshake refuses a client without a certificate, and the server's own certificate is usually no
client's. So the server also listens on a unix socket in Linux's abstract namespace, which has no
file: whoever is in the server's network namespace can connect, as to a port on loopback. Invariant:
a call that comes in there has no caller, whatever it brings, so it may ask for health alone
(`incoming.callers`). The socket is named after the server's port, which no other server in that
namespace has.
"""

from __future__ import annotations

import ipaddress
import logging
import sys
from typing import Final

log: Final = logging.getLogger(__name__)

SUPPORTED = sys.platform == "linux"
"""Whether the machine has abstract sockets."""


def of(address: str) -> str:
    """Returns the target of the socket.

    Args:
        address: The server's address, HOST:PORT.
    """
    return f"unix-abstract:keyfold-health-{address.rpartition(':')[2]}"


def is_here(address: str) -> bool:
    """Says whether an address HOST:PORT is surely one of this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return found.is_loopback or found.is_unspecified


def missing() -> None:
    """Says that the server has no such socket."""
    log.warning(
        "no socket for health checks; keyfold-server health needs a client certificate in "
        "KEYFOLD_CERT and KEYFOLD_KEY"
    )
