"""Checks of the settings, and of what they name."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from typing import Final

from keyfold.checks import Finding, failure, ok
from keyfold.version import __version__
from keyfold_server import observability
from keyfold_server import settings as all_settings
from keyfold_server.bootstrap.checking.faults import of_error
from keyfold_server.bootstrap.providers import catalog, key_names, regions, seats
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.providers.catalog import Catalog
from keyfold_server.rpc.asgi_server import check_installed
from keyfold_server.settings import Settings

_MEND: Final = "mend the setting; docs/configuration.md describes each"


def versions() -> Iterator[Finding]:
    """Says what is installed here."""
    yield ok("keyfold", f"{__version__} on Python {platform.python_version()}, {platform.system()}")


def settings(into: list[Settings]) -> Iterator[Finding]:
    """Loads the settings into a list."""
    for name in all_settings.unknown_variables():
        yield failure(name, "it is in the environment and is not a setting", "is it misspelt?")
    try:
        into.append(all_settings.load())
    except KeyfoldError as error:
        yield from of_error(error, "settings", _MEND)
    else:
        yield ok("settings", "each has a valid value")


def names(settings: Settings, into: list[Catalog]) -> Iterator[Finding]:
    """Makes what the settings name: providers, platform keys, regions, seats; and the transport."""
    good = True
    try:
        into.append(providers := catalog(settings))
    except KeyfoldError as error:
        yield from of_error(error, "providers", _MEND)
        return
    steps: tuple[Callable[[], object], ...] = (
        lambda: key_names(settings, providers),
        lambda: regions(settings, providers),
        lambda: seats(settings, providers),
        lambda: check_installed() if settings.transport == "asgi" else None,
    )
    for step in steps:
        try:
            step()
        except KeyfoldError as error:
            good = False
            yield from of_error(error, "names", _MEND)
    if good:
        yield ok("names", "platform keys, regions and seats are those of installed providers")


def traces() -> Iterator[Finding]:
    """Sets traces up as a start does."""
    try:
        observability.traces()
        observability.end_traces()
    except KeyfoldError as error:
        yield from of_error(error, "traces", "mend OTEL_TRACES_EXPORTER")
    else:
        yield ok("traces", "the exporter of the environment, or none, can be set up")
