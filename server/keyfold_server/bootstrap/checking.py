"""What `keyfold-server --check` tries: everything on which a start could fail, and the credentials.

Invariant: it changes nothing, and calls settings good only if a start with them would succeed. It
may run beside a server that has these settings; `in_use` says what that server holds.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from keyfold_server import observability
from keyfold_server.bootstrap.access import Access
from keyfold_server.bootstrap.providers import catalog, key_names, regions, seats
from keyfold_server.domain.errors import (
    CouldNotTellError,
    CredentialsFailedError,
    KeyfoldError,
    SetupError,
)
from keyfold_server.domain.provider import TriesLogins
from keyfold_server.providers.catalog import Catalog
from keyfold_server.rpc.asgi_server import check_installed
from keyfold_server.service.clock import SystemClock
from keyfold_server.settings import Settings
from keyfold_server.store import opening

_BUDGET: Final = 10.0
"""Seconds for the logins of one provider."""


def check(settings: Settings) -> list[str]:
    """Returns what is wrong with the settings beyond their form, and with what they name."""
    faults: list[str] = []
    with _noted(faults):
        faults += _faults(settings, catalog(settings))
    return faults


def check_all(settings: Settings) -> tuple[list[str], list[str]]:
    """Checks the settings, and tries the credentials of each provider if nothing else is wrong.

    Returns:
        The faults, and the warnings.
    """
    faults: list[str] = []
    warnings: list[str] = []
    with _noted(faults):
        providers = catalog(settings)
        faults += _faults(settings, providers)
        if not faults:
            faults, warnings = _credentials(providers)
    # What the store has that can drop or change what Keyfold writes (protocol S10).
    return faults, warnings + opening.warnings(settings.store, settings.store_password_file)


def _faults(settings: Settings, providers: Catalog) -> list[str]:
    """Makes each provider that the settings set up, so that a missing extra shows now, too."""
    faults: list[str] = []
    with _noted(faults):
        key_names(settings, providers)
    with _noted(faults):
        regions(settings, providers)
    with _noted(faults):
        seats(settings, providers)
    for type_ in providers.set_up():
        with _noted(faults, f"{type_}: "):
            providers.provider(type_)
    with _noted(faults):
        if settings.transport == "asgi":
            check_installed()
    with _noted(faults):
        asyncio.run(Access(settings, SystemClock()).check())
    with _noted(faults):
        observability.traces()
        observability.end_traces()
    with _noted(faults, "KEYFOLD_STORE: "):
        opening.check(
            settings.store,
            settings.service_key,
            settings.store_listen,
            password_file=settings.store_password_file,
            migrating=settings.migrate == "auto",
        )
    return faults


@contextmanager
def _noted(faults: list[str], prefix: str = "") -> Iterator[None]:
    try:
        yield
    except KeyfoldError as error:
        faults += [prefix + line for line in error.message.splitlines()]


def _credentials(providers: Catalog) -> tuple[list[str], list[str]]:
    """Tries the credentials of each provider that the settings or the environment set up."""
    faults: list[str] = []
    doubts: list[str] = []
    for type_ in sorted({*providers.set_up(), *providers.in_environment()}):
        try:
            _log_in(providers, type_)
        except (CredentialsFailedError, SetupError) as error:
            faults.append(f"{type_}: {error.message}")
        except CouldNotTellError as error:
            doubts.append(f"{type_}: its credentials could not be tried: {error.message}")
        except KeyfoldError as error:
            # A provider that the settings set up has been made already.
            doubts.append(f"{type_}: {error.message}")
    return faults, doubts


def _log_in(providers: Catalog, type_: str) -> None:
    provider = providers.provider(type_)
    if isinstance(provider, TriesLogins):
        provider.try_logins(budget=_BUDGET)


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
