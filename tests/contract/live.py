"""The provider suite on a key of one's own: `make live PROVIDER=aws KEY=…`.

    PROVIDER    aws, azure, gcp or vault
    KEY         the key's uri, as a key spec names it
    KEY2        another key that the same credential may use; without it one test is left out
    PRINCIPAL   as whom Keyfold calls the provider; none: with its own credential
    OPTIONS     NAME=VALUE;NAME=VALUE
    EXTERNAL_ID what the trust policy of an AWS role demands

The provider is set up as a server is: by the SDK's standard environment, and by KEYFOLD_CONFIG
where there is one. Keys are used and described, never made or changed, so nothing is left to
clean up. What needs the customer's hand is left out, and said so.
"""

from __future__ import annotations

import collections
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from contract import azure_key_vault
from contract.counterparts import Counterpart, Row
from contract.live_table import ABSENT, LEFT_OUT, SERVICES, Service
from keyfold_server.bootstrap.providers import catalog
from keyfold_server.domain.errors import KeyfoldError, SetupError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.settings import load

EXIT_USAGE: Final = 2

HERE: Final = Path(__file__).parent
SUITE: Final = (HERE / "test_provider.py", HERE / "live_checks.py")

TIMEOUT: Final = 300
"""Seconds for one test: some make hundreds of calls, one after the other."""


class UsageError(Exception):
    """It cannot begin; the text says what to give."""


class Calls(collections.Counter[str]):
    """How often a provider was asked, by what."""

    def count(self, provider: KeyProvider, names: Sequence[str]) -> None:
        """Counts from here on."""
        for name in names:
            if hasattr(provider, name):
                setattr(provider, name, self._counted(name, getattr(provider, name)))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self[name] += 1
            return call(*args, **kwargs)

        return counted


class LiveCounterpart(Counterpart):
    """A real service: the keys that were named, and nobody's hand."""

    def __init__(self, provider: KeyProvider, keys: Sequence[RootKey]) -> None:
        self.provider = provider
        self._first = keys[0]
        self._keys = list(keys)

    def create_key(self) -> RootKey:
        """Returns a key that was named, each of them once."""
        return self._keys.pop(0)

    def missing_key(self) -> RootKey:
        """Returns a key beside the first one; only its credential is ever asked about."""
        head, middle, _ = self._first.uri.rpartition("/keys/")
        if not middle:
            head, middle, _ = self._first.uri.rpartition("/")
        return replace(self._first, uri=f"{head}{middle}{uuid.uuid4()}")


@dataclass(frozen=True)
class Live:
    """What is to be run.

    Attributes:
        service: The provider.
        provider: The same, set up.
        keys: The one or two keys that were named.
        calls: What was asked of it so far.
    """

    service: Service
    provider: KeyProvider
    keys: tuple[RootKey, ...]
    calls: Calls

    @property
    def row(self) -> Row:
        """The row of the suite."""
        own = self.service.row
        if "managedhsm" in self.keys[0].uri:
            own = azure_key_vault.HSM_ROW
        return Row(
            name=f"{self.service.type} live",
            make=lambda _: LiveCounterpart(self.provider, self.keys),
            binds=own.binds,
            refused=own.refused,
            absent=ABSENT,
            deviations=own.deviations,
        )

    def left_out(self, item: pytest.Function) -> str:
        """Returns why a test is not run, or an empty text."""
        name = item.originalname
        if name == "test_another_key_does_not_open" and len(self.keys) == 1:
            return "give KEY2, another key"
        lacking = [
            ABSENT[ability]
            for mark in item.iter_markers("needs")
            for ability in mark.args
            if ability in ABSENT
        ]
        return LEFT_OUT.get(name) or (lacking[0] if lacking else "")


def asked(environment: Mapping[str, str]) -> Live:
    """Returns what the environment asks for.

    Raises:
        UsageError: It does not say enough, or what it says cannot be used.
    """
    name, uri = environment.get("PROVIDER", ""), environment.get("KEY", "")
    if name not in SERVICES or not uri:
        raise UsageError(
            f"give PROVIDER={'|'.join(SERVICES)} and KEY=URI; KEY2, PRINCIPAL and "
            "OPTIONS=NAME=VALUE;… where they are needed. The credential comes from the SDK's own "
            "environment; docs/providers tells"
        )
    service = SERVICES[name]
    options = [
        (one.partition("=")[0].strip(), one.partition("=")[2].strip())
        for one in environment.get("OPTIONS", "").split(";")
        if one.strip()
    ]
    principal, external_id = environment.get("PRINCIPAL", ""), environment.get("EXTERNAL_ID", "")
    how = (principal, tuple(sorted(options)), external_id)
    try:
        provider = catalog(load()).provider(service.type)
        keys = tuple(
            provider.canonical(RootKey(service.type, each, *how))
            for each in (uri, environment.get("KEY2", ""))
            if each
        )
    except (KeyfoldError, SetupError) as error:
        raise UsageError(error.message) from error
    if len(set(keys)) != len(keys):
        raise UsageError("KEY2 is KEY; give another one, or leave it out")
    calls = Calls()
    calls.count(provider, ("wrap", "unwrap", "describe", "authenticate"))
    return Live(service, provider, keys, calls)


class Suite:
    """A plugin of pytest: the suite for one row, with the tests that need nobody's hand.

    Attributes:
        left_out: Names of tests by the reason why they are not run.
    """

    def __init__(self, live: Live) -> None:
        """Takes what is to be run."""
        self._live = live
        self.left_out: dict[str, set[str]] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        """Puts the live row in the table's place."""
        for plugin in config.pluginmanager.get_plugins():
            if getattr(plugin, "__file__", None) == str(HERE / "conftest.py"):
                plugin.ROWS = (self._live.row,)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Function]
    ) -> None:
        """Leaves out what cannot be run."""
        kept: list[pytest.Function] = []
        dropped: list[pytest.Function] = []
        for item in items:
            why = self._live.left_out(item)
            if why:
                self.left_out.setdefault(why, set()).add(item.originalname)
            (dropped if why else kept).append(item)
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def summary(live: Live, left_out: Mapping[str, set[str]]) -> str:
    """Returns what was left out and why, how many calls were made, and what they cost."""
    lines = ["", "Left out:"]
    for why, names in left_out.items():
        lines += [f"  because {why}:", *(f"    {name}" for name in sorted(names))]
    service = live.service
    made = ", ".join(f"{count} {name}" for name, count in sorted(live.calls.items()))
    paid = sum(count * service.calls.get(name, 0) for name, count in live.calls.items())
    lines += ["", f"Asked of {service.type}: {made or 'nothing'}."]
    if service.price:
        besides = f" ({service.besides})" if service.besides else ""
        lines.append(
            f"At most {paid:,} calls that are paid for: about ${paid * service.price / 10_000:.4f} "
            f"at ${service.price} for 10,000{besides}. Look the price up: this one is of "
            "November 2026."
        )
    else:
        lines.append(f"At most {paid:,} calls, which nobody charges for.")
    lines.append("Nothing was made or changed in the account, so there is nothing to clean up.")
    return "\n".join([*lines, ""])


def main() -> int:
    """Runs the suite; returns pytest's exit code, or 2 where it cannot begin."""
    try:
        live = asked(os.environ)
    except UsageError as error:
        sys.stderr.write(f"live: {error}\n")
        return EXIT_USAGE
    suite = Suite(live)
    keys = " and ".join(key.uri for key in live.keys)
    sys.stdout.write(f"The provider suite on {keys}, which is used and not changed.\n\n")
    sys.stdout.flush()
    options = ["-q", "-p", "no:cacheprovider", "-o", f"timeout={TIMEOUT}"]
    code = pytest.main([*options, *map(str, SUITE)], plugins=[suite])
    sys.stdout.write(summary(live, suite.left_out))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
