"""Checks of this machine: the addresses, the server that runs on them, and its open files."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from typing import Final

from keyfold.checks import Finding, Outcome, failure, ok, unknown, warning
from keyfold_server.bootstrap import process
from keyfold_server.bootstrap.checking.addresses import in_use
from keyfold_server.bootstrap.checking.faults import of_error
from keyfold_server.domain.errors import SetupError
from keyfold_server.rpc import probe
from keyfold_server.settings import Settings

_TAKEN: Final = "end the program that has it, or change the setting"
_ANSWERS: Final = (probe.SERVING, probe.NOT_SERVING)


def addresses(settings: Settings, health: Callable[[Settings], str]) -> Iterator[Finding]:
    """Says whether a start could have its addresses and its store for itself."""
    try:
        held = in_use(settings)
    except SetupError as error:
        yield from of_error(error, "addresses", _TAKEN)
        return
    if not held:
        yield ok("addresses", f"{settings.listen} and that of the metrics are free")
    elif health(settings) in _ANSWERS:
        yield ok("addresses", f"a server of these settings has {settings.listen}")
    else:
        for line in held:
            setting, _, seen = line.partition(": ")
            yield Finding(setting, Outcome.FAILURE, seen, _TAKEN)


def server(settings: Settings, health: Callable[[Settings], str]) -> Iterator[Finding]:
    """Asks the server that runs on these settings, as `keyfold-server health` does."""
    try:
        held = in_use(settings)
    except SetupError:
        held = []  # `addresses` has told of it.
    said = health(settings) if held else ""
    if said == probe.SERVING:
        yield ok("server", "it runs, and serves")
    elif said == probe.NOT_SERVING:
        yield failure(
            "server",
            "it runs, and does not serve",
            "GET /readyz of the address of KEYFOLD_METRICS says why; the log has more",
        )
    elif held:
        yield unknown(
            "server",
            f"a process has its store or address, and no server answers on {settings.listen}: "
            + said,
            "wait for its start to end, or look at its log",
        )
    else:
        yield ok("server", "none runs on these settings now")


def open_files(settings: Settings) -> Iterator[Finding]:
    """Says whether this process's limit would do for the connections of the settings."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_connections + process.OWN_FILES
    seen = "no limit" if hard == resource.RLIM_INFINITY else f"a limit of {hard:,}"
    if hard != resource.RLIM_INFINITY and hard < needed:
        yield warning(
            "open files",
            f"{seen} here, and {settings.max_connections:,} connections need {needed:,}",
            "raise the hard limit (ulimit -Hn, LimitNOFILE=), or lower KEYFOLD_MAX_CONNECTIONS",
        )
    else:
        yield ok("open files", f"{seen} here, and {needed:,} are needed")
