"""Addresses to listen on: whether another server already answers there, and sockets for them.

Two servers could share a port or a socket's path without a word, and calls would reach either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any, Final

from keyfold_server.domain.errors import SetupError

_KEEPALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""When the kernel asks whether a silent client is still there. Connections inherit this from their
listening socket."""


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


def tcp(host: str, port: int) -> list[socket.socket]:
    """Listens on every address of a host, on one port.

    Raises:
        OSError: An address cannot be bound.
    """
    listeners: list[socket.socket] = []
    flags = socket.AI_PASSIVE
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=flags
        ):
            try:
                listener = socket.socket(family, kind, protocol)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:
                    continue  # localhost may have an address of IPv6 on a machine without it.
                raise
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            if family == socket.AF_INET6:
                # `::` means every address, as it does for gRPC; localhost's `::1` is one of two.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            listener.bind((address[0], port, *address[2:]))
            listener.listen(socket.SOMAXCONN)
            port = listener.getsockname()[1]
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def unix(listen: str, mode: int) -> socket.socket:
    """Listens on a unix socket.

    Args:
        listen: `unix:` and a path. A file of a server that died is replaced.
        mode: The permissions of the socket's file.

    Raises:
        SetupError: The path cannot be bound.
    """
    path = listen.removeprefix("unix:")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The socket's permissions decide who may call, so it must have them from its first moment.
    before = os.umask(0o777 & ~mode)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108  no Path on a loop
        listener.bind(path)
        listener.listen(socket.SOMAXCONN)
    except OSError:
        listener.close()
        raise taken(listen) from None
    finally:
        os.umask(before)
    return listener


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
