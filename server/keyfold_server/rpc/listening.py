"""Addresses to listen on: whether another server already answers there.

Two servers could share a port or a socket's path without a word, and calls would reach either.
"""

from __future__ import annotations

import socket
from typing import Any

from keyfold_server.domain.errors import SetupError


def check_free(listen: str) -> None:
    """Checks that no server listens on an address.

    Args:
        listen: `HOST:PORT`, or `unix:` and a path. Port 0 is always free.

    Raises:
        SetupError: Another server answers there.
    """
    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        if _answers(socket.AF_UNIX, path):
            raise SetupError(
                f"another server listens on {path}; stop it, or set KEYFOLD_LISTEN to another path"
            )
        return
    host, _, port = listen.rpartition(":")
    # localhost is two addresses, and a transport would be content if only one of them is free.
    if port != "0" and _any_answers(host.strip("[]"), int(port)):
        raise taken(listen)


def taken(listen: str) -> SetupError:
    """Returns the error for an address that cannot be bound."""
    if listen.startswith("unix:"):
        return SetupError(
            f"cannot listen on {listen.removeprefix('unix:')}; is its folder writable?"
        )
    return SetupError(
        f"cannot listen on {listen}; is another server there? Set KEYFOLD_LISTEN to another port, "
        "or to port 0 for a free one"
    )


def _any_answers(host: str, port: int) -> bool:
    """Says whether a server listens on any address of a host of this machine."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return any(_answers(family, address) for family, _, _, _, address in found)


def _answers(family: socket.AddressFamily, address: str | tuple[Any, ...]) -> bool:
    """Says whether a server listens there; one that died leaves only its socket's file."""
    with socket.socket(family) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except OSError:
            return False
        return True
