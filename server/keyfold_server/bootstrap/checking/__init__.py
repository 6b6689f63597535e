"""What `keyfold-server check` looks at: a deployment from inside, with the server's own settings.

Invariant: it changes nothing, may run beside a server that has these settings, and reports no
failure only if a start with them would succeed. Each module yields findings about one part of the
server, and no finding hides another.

    start       the settings, and what they name
    callers     TLS, the policy and its holes, the keys of the tokens' issuer
    stored      the store: reachable, schema, service key, clock, replicas, log
    kms         providers, their credentials, and the root keys, step by step
    machine     the addresses, the server that runs now, the limit of open files
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keyfold.checks import Finding, Report, unknown
from keyfold_server.bootstrap.checking import callers, kms, machine, start
from keyfold_server.bootstrap.checking.stored import StoreChecks
from keyfold_server.bootstrap.providers import served_regions
from keyfold_server.providers.catalog import Catalog
from keyfold_server.settings import Settings

_LATER: Final = ("names", "providers", "tls", "policy", "store", "keys", "addresses", "server")
"""What cannot be looked at without settings."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command was asked for.

    Attributes:
        timeout: The most seconds that a step may take.
        anchors: Lines that `keyfold events anchor` has printed, against which to hold the log.
        keys: The most root keys to try.
        health: Returns the answer of the server that runs with some settings.
    """

    timeout: float
    anchors: tuple[str, ...]
    keys: int
    health: Callable[[Settings], str]


def inside(report: Report, asked: Asked) -> None:
    """Carries out every check, and adds what it finds to a report."""
    loaded: list[Settings] = []
    report.run("keyfold", asked.timeout, start.versions)
    report.run("settings", asked.timeout, lambda: start.settings(loaded))
    if not loaded:
        report.findings += [
            unknown(each, "not looked at, because the settings cannot be read", "mend the settings")
            for each in _LATER
        ]
        return
    of_settings(report, asked, loaded[0])


def of_settings(report: Report, asked: Asked, settings: Settings) -> None:
    """Carries out every check of what some settings name."""
    made: list[Catalog] = []
    report.run("names", asked.timeout, lambda: start.names(settings, made))
    report.run("traces", asked.timeout, start.traces)
    providers = made[0] if made else None
    if providers is None:
        report.findings.append(_without_catalog("providers"))
    else:
        for type_ in sorted({*providers.set_up(), *providers.in_environment()}):
            step = kms.Login(providers, type_, asked.timeout)
            report.run(f"provider {type_}", asked.timeout * 2, step)
    report.run("tls", asked.timeout, lambda: callers.tls(settings))
    report.run("policy", asked.timeout, lambda: callers.policy(settings))
    report.run("tokens", asked.timeout, lambda: callers.tokens(settings))
    store = StoreChecks(settings, asked.anchors)
    for name, question in store.questions():
        # Its own time-outs end a question before that, and say more.
        report.run(name, asked.timeout * 2, question)
    if providers is None:
        report.findings.append(_without_catalog("keys"))
    else:
        budget = asked.timeout / 2
        served = served_regions(settings)
        # Each key has a step of its own, so that one whose KMS hangs does not hide the others.
        for key in kms.keys(settings, providers, store, asked.keys, report, asked.timeout):
            report.run(key.name, asked.timeout * 3, kms.Trial(providers, key, budget, served))
    report.run("addresses", asked.timeout, lambda: machine.addresses(settings, asked.health))
    report.run("server", asked.timeout, lambda: machine.server(settings, asked.health))
    report.run("open files", asked.timeout, lambda: machine.open_files(settings))
    store.close()


def _without_catalog(check: str) -> Finding:
    return unknown(
        check, "not looked at, because the providers cannot be made", "mend the settings"
    )
