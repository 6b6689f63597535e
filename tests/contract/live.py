"""Runs the provider suite on a key of your own: `make live PROVIDER=aws KEY=…`.

    PROVIDER    aws, azure, gcp or vault
    KEY         the key's URI, as in a key spec
    KEY2        another key that the same credential may use; without it one test is left out
    PRINCIPAL   the principal as which Keyfold calls; without it, Keyfold's own credential
    OPTIONS     NAME=VALUE;NAME=VALUE
    EXTERNAL_ID the external id that the trust policy of an AWS role demands

The provider is set up as in a server: by the SDK's standard environment, and by KEYFOLD_CONFIG if
it is set. The suite uses and describes keys and never makes or changes them, so there is nothing to
clean up. It leaves out the tests that need the customer's hand, and says so.
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
"""Most seconds for one test: some make hundreds of calls, one after the other."""


class UsageError(Exception):
    """The suite cannot begin; the text says what is missing."""


class Calls(collections.Counter[str]):
    """Numbers of calls to a provider, by method."""

    def count(self, provider: KeyProvider, names: Sequence[str]) -> None:
        """Counts the calls of these methods from now on."""
        for name in names:
            if hasattr(provider, name):
                setattr(provider, name, self._counted(name, getattr(provider, name)))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self[name] += 1
            return call(*args, **kwargs)

        return counted


class LiveCounterpart(Counterpart):
    """A real KMS: the named keys, and no customer's hand."""

    def __init__(self, provider: KeyProvider, keys: Sequence[RootKey]) -> None:
        self.provider = provider
        self._first = keys[0]
        self._keys = list(keys)

    def create_key(self) -> RootKey:
        """Returns one of the named keys, each of them once."""
        return self._keys.pop(0)

    def missing_key(self) -> RootKey:
        """Returns a key beside the first one; the suite only authenticates with it."""
        head, middle, _ = self._first.uri.rpartition("/keys/")
        if not middle:
            head, middle, _ = self._first.uri.rpartition("/")
        return replace(self._first, uri=f"{head}{middle}{uuid.uuid4()}")


@dataclass(frozen=True)
class Live:
    """The settings of one live run.

    Attributes:
        service: The provider's entry in the table.
        provider: The provider, set up.
        keys: The one or two keys that were named.
        calls: The calls to the provider so far.
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
    """Returns the run that the environment asks for.

    Raises:
        UsageError: The environment names too little, or something that cannot be used.
    """
    name, uri = environment.get("PROVIDER", ""), environment.get("KEY", "")
    if name not in SERVICES or not uri:
        raise UsageError(
            f"give PROVIDER={'|'.join(SERVICES)} and KEY=URI, and KEY2, PRINCIPAL and "
            "OPTIONS=NAME=VALUE;… if needed. The credential comes from the SDK's own "
            "environment; see docs/providers"
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
        raise UsageError("KEY2 is the same as KEY; give another one, or leave it out")
    calls = Calls()
    calls.count(provider, ("wrap", "unwrap", "describe", "authenticate"))
    return Live(service, provider, keys, calls)


class Suite:
    """A pytest plugin that runs the suite for one row, without the tests that need a hand.

    Attributes:
        left_out: Names of the tests that are not run, by reason.
    """

    def __init__(self, live: Live) -> None:
        """Takes the run's settings."""
        self._live = live
        self.left_out: dict[str, set[str]] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        """Puts the live row in place of the table."""
        for plugin in config.pluginmanager.get_plugins():
            if getattr(plugin, "__file__", None) == str(HERE / "conftest.py"):
                plugin.ROWS = (self._live.row,)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Function]
    ) -> None:
        """Leaves out the tests that cannot run."""
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
    """Returns which tests were left out and why, the number of calls, and what they cost."""
    lines = ["", "Left out:"]
    for why, names in left_out.items():
        lines += [f"  because {why}:", *(f"    {name}" for name in sorted(names))]
    service = live.service
    made = ", ".join(f"{count} {name}" for name, count in sorted(live.calls.items()))
    paid = sum(count * service.calls.get(name, 0) for name, count in live.calls.items())
    lines += ["", f"Calls to {service.type}: {made or 'none'}."]
    if service.price:
        besides = f" ({service.besides})" if service.besides else ""
        lines.append(
            f"At most {paid:,} paid calls: about ${paid * service.price / 10_000:.4f} "
            f"at ${service.price} for 10,000{besides}. Look the price up: this one is from "
            "November 2026."
        )
    else:
        lines.append(f"At most {paid:,} calls, which are free.")
    lines.append("Nothing was made or changed in the account, so there is nothing to clean up.")
    return "\n".join([*lines, ""])


def main() -> int:
    """Runs the suite; returns pytest's exit code, or 2 if it cannot begin."""
    try:
        live = asked(os.environ)
    except UsageError as error:
        sys.stderr.write(f"live: {error}\n")
        return EXIT_USAGE
    suite = Suite(live)
    keys = " and ".join(key.uri for key in live.keys)
    sys.stdout.write(f"The provider suite on {keys}, which it uses and does not change.\n\n")
    sys.stdout.flush()
    options = ["-q", "-p", "no:cacheprovider", "-o", f"timeout={TIMEOUT}"]
    code = pytest.main([*options, *map(str, SUITE)], plugins=[suite])
    sys.stdout.write(summary(live, suite.left_out))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
