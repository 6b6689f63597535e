"""The addresses and the store that a server has for itself: whether another process holds them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keyfold_server.domain.errors import SetupError
from keyfold_server.settings import Settings
from keyfold_server.store import opening


def in_use(settings: Settings) -> list[str]:
    """Returns what another process holds, so that a start would fail as long as it does.

    Raises:
        SetupError: An address can never be bound here.
    """
    held = []
    if opening.in_use(settings.store):
        held.append(f"KEYFOLD_STORE: another server uses {settings.store}")
    with ExitStack() as bound:
        addresses = [("KEYFOLD_LISTEN", settings.listen)]
        if (metrics := settings.metrics_address()) is not None:
            addresses.append(("KEYFOLD_METRICS", f"{metrics[0]}:{metrics[1]}"))
        for setting, address in addresses:
            try:
                bound.enter_context(_listening(address))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise SetupError(
                        f"{setting}: {address} cannot be bound: {error.strerror or error}"
                    ) from None
                held.append(f"{setting}: {address} is in use")
    return held


@contextmanager
def _listening(address: str) -> Iterator[None]:
    """Listens on an address for a moment; both of two addresses at once show if they are one.

    Raises:
        OSError: The address cannot be bound.
    """
    with ExitStack() as opened:
        if address.startswith("unix:"):
            _check_socket(Path(address.removeprefix("unix:")))
        else:
            _bind(opened, address)
        yield


def _bind(opened: ExitStack, address: str) -> None:
    """Binds a name's addresses; one is enough, but none may be another server's."""
    host, _, port = address.rpartition(":")
    failure: OSError | None = None
    bound = False
    for family, _, _, _, place in socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        try:
            one = opened.enter_context(socket.socket(family))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(place)
            one.listen()
            bound = True
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            failure = error
    if failure is not None and not bound:
        raise failure


def _check_socket(path: Path) -> None:
    # A server replaces a socket that another one has left behind, but no other file.
    if os.path.lexists(path) and not path.is_socket():
        raise OSError(errno.EEXIST, "a file that is not a socket is in its place")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            pass  # Nobody listens there; what a server left behind is replaced.
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
