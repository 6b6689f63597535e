"""Checks of providers, their credentials, and the root keys, with the steps of TestKey."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from keyfold.checks import Finding, Outcome, Report, advised, failure, ok, unknown, warning
from keyfold_server.bootstrap.checking.faults import of_error
from keyfold_server.bootstrap.checking.stored import StoreChecks
from keyfold_server.bootstrap.providers import key_names, served_regions
from keyfold_server.domain.binding import Binding
from keyfold_server.domain.bounds import Rates
from keyfold_server.domain.errors import (
    CouldNotTellError,
    CredentialsFailedError,
    KeyfoldError,
    SetupError,
)
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import TriesLogins
from keyfold_server.domain.residency import ResidencyReport
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.providers.catalog import Catalog
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.kms.client import KmsClient
from keyfold_server.service.root_keys.key_trial import KeyTrial
from keyfold_server.service.root_keys.trial_results import (
    Outcome as StepOutcome,
)
from keyfold_server.service.root_keys.trial_results import Step, StepResult, TestKeyResult
from keyfold_server.settings import Settings

_CREDENTIAL: Final = "mend the credential that the settings or the environment name"
_LATER: Final = "try again; if it stays, look at the network between here and the provider"
_KEK_ID: Final = 16

_WORDS: Final = {
    Step.AUTHENTICATE: "authenticate",
    Step.DESCRIBE: "describe",
    Step.WRAP: "wrap",
    Step.UNWRAP: "unwrap",
    Step.CONTEXT: "tell clusters apart",
}


class Login:
    """Makes a provider, and tries its credentials."""

    def __init__(self, providers: Catalog, type_: str, budget: float) -> None:
        """Takes the provider's type, and the seconds that its logins may take."""
        self._providers = providers
        self._type = type_
        self._budget = budget

    def __call__(self) -> Iterator[Finding]:
        """Yields what came out."""
        name = f"provider {self._type}"
        set_up = self._type in self._providers.set_up()
        try:
            provider = self._providers.provider(self._type)
            if not isinstance(provider, TriesLogins):
                yield ok(name, "it is set up, and has no credential of its own")
                return
            provider.try_logins(budget=self._budget)
        except CredentialsFailedError as error:
            yield advised(Outcome.FAILURE, name, error.message, _CREDENTIAL)
        except CouldNotTellError as error:
            seen = f"its credentials could not be tried: {error.message}"
            yield advised(Outcome.UNKNOWN, name, seen, _LATER)
        except SetupError as error:
            yield from of_error(error, name, _CREDENTIAL)
        except KeyfoldError as error:
            # What the environment alone sets up need not be meant for this server.
            outcome = Outcome.FAILURE if set_up else Outcome.WARNING
            yield advised(outcome, name, error.message, _CREDENTIAL)
        else:
            yield ok(name, "the KMS accepts its credentials")


@dataclass(frozen=True, slots=True)
class Key:
    """A root key to try.

    Attributes:
        root: The key.
        user: What uses it, for the line.
        binding: What the trial is bound to, as real use is.
    """

    root: RootKey
    user: str
    binding: Binding

    @property
    def name(self) -> str:
        """The name of its check."""
        return f"key {self.root.type} {self.root.uri}"


def keys(
    settings: Settings,
    providers: Catalog,
    store: StoreChecks,
    most: int,
    report: Report,
    timeout: float,
) -> list[Key]:
    """Returns the platform's keys, and the first of those that clusters use; reports the others."""
    found: list[Key] = []

    def looked() -> Iterator[Finding]:
        found.extend(
            Key(root, "the platform's key", _binding("", region, None))
            for root, region in _platform(settings, providers).items()
        )
        used = store.root_keys(most)
        if used is None:
            yield unknown("keys", "those of clusters are not known", "see the lines of the store")
            return
        for one in used[:most]:
            if isinstance(one, KeyfoldError):
                yield advised(Outcome.FAILURE, "keys", one.message, "see docs/operations.md")
                continue
            cluster, region = one
            root = region.newest.current.root
            bound = _binding(cluster.name, region.name, cluster.organization)
            if all(root != known.root for known in found):
                found.append(Key(root, f"{cluster.name}, region {region.name}", bound))
        if len(used) > most:
            yield unknown(
                "keys",
                f"clusters use more than {most} root keys, and the others are not tried",
                "raise --keys, or list those that fail with `keyfold clusters --cannot-wrap`",
            )
        elif not found:
            served = served_regions(settings)
            seen = "no cluster uses a root key yet"
            if not served.all:
                seen += (
                    f" in what this server serves alone, {served}; look whether clusters spell it "
                    "like that"
                )
            yield ok("keys", seen)

    report.run("keys", timeout, looked)
    return found


def _platform(settings: Settings, providers: Catalog) -> dict[RootKey, str]:
    """Returns the platform's keys that this server uses, each with a region in which it does.

    A server that serves some regions alone needs no credential for the others' platform keys.
    """
    try:
        names = key_names(settings, providers)
    except KeyfoldError:
        return {}  # `names` has told of it.
    served = served_regions(settings)
    if served.names is None:
        return dict.fromkeys(names.platform_keys, "")
    found: dict[RootKey, str] = {}
    for region in sorted(served.names):
        key = names.platform(region)
        if key is not None:
            found.setdefault(key, region)
    return found


def _binding(cluster: str, region: str, organization: str | None) -> Binding:
    return Binding(cluster, region, os.urandom(_KEK_ID), organization)


class Trial:
    """Tries a root key step by step."""

    def __init__(self, providers: Catalog, key: Key, budget: float, served: ServedRegions) -> None:
        """Takes the key, the seconds that each of its steps may take, and what is served."""
        self._served = served
        self._providers = providers
        self._key = key
        self._budget = budget

    def __call__(self) -> Iterator[Finding]:
        """Yields what came out."""
        steps, version = asyncio.run(self._steps())
        result = TestKeyResult(steps, version, ResidencyReport())
        name, user = self._key.name, self._key.user
        failed = [one for one in steps if one.outcome is StepOutcome.FAILED]
        if not failed:
            passed = [_WORDS[one.step] for one in steps if one.outcome is StepOutcome.PASSED]
            yield ok(name, f"Keyfold can {', '.join(passed)} with it, for {user}")
        elif result.accessible:
            seen, _, do = result.summary.partition("; ")
            yield warning(name, f"{seen}, for {user}", do)
        else:
            told = failed[0].error
            seen, _, do = result.summary.partition(": ")
            reason = "" if told is None else f" ({told.reason})"
            what = f"{seen}{reason}, for {user}"
            kind = unknown if isinstance(told, CouldNotTellError) else failure
            yield kind(name, what, do)

    async def _steps(self) -> tuple[tuple[StepResult, ...], str]:
        clock = SystemClock()
        kms = KmsClient(self._providers.provider, clock, self._budget, Rates(), self._served)
        try:
            return await KeyTrial(kms, clock).run(self._key.root, self._key.binding)
        finally:
            kms.close()
