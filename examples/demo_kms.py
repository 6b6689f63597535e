"""The same walk on a cloud's key service: `make demo PROVIDER=vault`, or aws, azure or gcp.

No account is needed: what answers in the service's place runs on this machine, is started here
and ends with the demo. The customer's own hand on the keys is the counterpart's; everything else
is as in demo.py, and the server is set up as for the real service.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

# The counterparts and what sets a server up for them are the tests'.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.demo import (
    CLUSTER,
    CONTEXT,
    EXIT_USAGE,
    NEW,
    OLD,
    BrokenPromiseError,
    Interruptions,
    Report,
    Server,
    Stage,
    Walk,
    main,
)

import keyfold
from contract.counterparts import NotInstalledError
from e2e.provider_sites import CLOUDS, Site, manifest, opened, settings
from keyfold_server.domain.keyspec import RootKey

SERVICES: Final = {
    "aws": "AWS KMS",
    "azure": "Azure Key Vault",
    "gcp": "Google Cloud KMS",
    "vault": "Vault",
}

RECOVERS_IN: Final = 15.0
"""Seconds within which a key that is enabled again serves: 5, and what a busy machine takes."""

PAUSE: Final = 0.1
NEXT: Final = "eu-next"


class Keys:
    """The customer's root keys at the counterpart.

    Attributes:
        site: The counterpart.
        by_name: Root keys by what the walk calls them: the regions, and `eu-next`.
        manifest: The file that gives the regions theirs.
        next: The file that gives `eu` its other one.
    """

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.by_name: dict[str, RootKey] = {}
        self.manifest = folder / "cmek_config.json"
        self.next = folder / "next.json"

    def create(self, name: str) -> RootKey:
        """Makes a root key, and writes the file that it belongs in."""
        key = self.by_name[name] = self.site.there.create_key()
        if name == NEXT:
            self.next.write_text(manifest({"eu": key}), encoding="utf-8")
        else:
            self.manifest.write_text(manifest(self.by_name), encoding="utf-8")
        return key

    def new_version(self) -> str:
        """Makes a new version of `eu`'s first key."""
        self.site.there.new_version(self.by_name["eu"])
        return "there is one more version"

    def disable(self, name: str) -> str:
        """Disables a root key."""
        self.site.there.disable(self.by_name[name])
        return "disabled"

    def enable(self, name: str) -> str:
        """Enables a root key."""
        self.site.there.enable(self.by_name[name])
        return "enabled"


class CloudWalk(Walk):
    """The steps on a key service; beside LOCAL's, a move to another key, and the customer's no."""

    newest = 3

    def __init__(
        self, report: Report, server: Server, file: Path, folder: Path, *, keys: Keys
    ) -> None:
        super().__init__(report, server, file, folder)
        self._keys = keys
        self.specs = keys.manifest
        self.shown_specs = keys.manifest.name

    def _enable(self) -> None:
        self._report.step("Ask what lets Keyfold use the keys, and have the customer attach it")
        self._report.ask(
            f'client.get_access_policy(…, cluster="{CLUSTER}")',
            lambda: self._keys.site.admit(self._client, cluster=CLUSTER),
            _policy,
        )
        super()._enable()

    def _make_version(self) -> None:
        self._customer("rotates the key of region eu", self._keys.new_version)

    def _disable_old(self) -> None:
        self._report.step("Rotate the region to another root key")
        shown = f"keyfold rotate {CLUSTER} --file {self._keys.next.name}"
        promised = {"eu": ("ENABLED", self.newest, NEW), "us": ("ENABLED", 1, OLD)}
        words = ("rotate", CLUSTER, "--file", str(self._keys.next))
        self._cli(shown, promised, *words)
        self._report.step("Disable the root key that it leaves")
        self._customer("disables the first key of region eu", lambda: self._keys.disable("eu"))

    def _end(self, wrapped_key: bytes) -> None:
        self._report.step("Disable the root key in use, as a customer who says no")
        self._customer("disables the key of region eu", lambda: self._keys.disable(NEXT))
        self._refused(wrapped_key, keyfold.KeyDisabledError)
        self._report.step("Enable it; service resumes by itself")
        self._customer("enables the key of region eu", lambda: self._keys.enable(NEXT))
        self._report.ask(
            f'client.unwrap("{CLUSTER}", wrapped_key, context=…), until it is answered',
            lambda: self._recovered(wrapped_key),
            lambda answer: f"{answer.plaintext!r} of generation {answer.generation}",
            lambda answer: answer.generation == NEW,
        )

    def _recovered(self, wrapped_key: bytes) -> keyfold.Unwrapped:
        ends = time.monotonic() + RECOVERS_IN
        while True:
            try:
                return self._client.unwrap(CLUSTER, wrapped_key, context=CONTEXT)
            except keyfold.KeyDisabledError:
                if time.monotonic() > ends:
                    raise
                time.sleep(PAUSE)

    def _customer(self, does: str, do: Callable[[], str]) -> None:
        self._report.ask(f"the customer {does}", do, str)


class CloudStage(Stage):
    """A counterpart, root keys in it, and a server that is set up for it."""

    def __init__(self, name: str) -> None:
        """Takes a provider's name; nothing is started yet."""
        self._name = name
        self._service = SERVICES[name]
        self._running = ExitStack()
        self._keys: Keys | None = None
        self.title = f"The life of a key under {self._service}"
        self.about = (
            f"What answers in the place of {self._service} runs on this machine:",
            "it is not the real service, and no account is used.",
        )

    def start(
        self, report: Report, server: Server, folder: Path, interruptions: Interruptions
    ) -> None:
        """Starts the counterpart, makes the root keys and brings the server up."""
        report.step(f"Start what stands in for the customer's {self._service}")
        site = report.ask(
            f"the counterpart `{self._name}` of tests/counterparts",
            lambda: self._open(folder),
            lambda site: f"{site.service}, on loopback",
        )
        keys = Keys(site, folder)
        report.step("Make three root keys there, as the customer would")
        for name in ("eu", "us", NEXT):
            report.ask(f"the key {name}", partial(keys.create, name), _shown)
        told = settings([site], folder / "keyfold.toml")
        server.set_up({name: value for name, value in told.items() if value is not None})
        self._keys = keys
        self.serve(report, server, interruptions)

    def walk(self, report: Report, server: Server, file: Path, folder: Path) -> Walk:
        """Returns the steps."""
        assert self._keys is not None  # noqa: S101  start came first
        return CloudWalk(report, server, file, folder, keys=self._keys)

    def _open(self, folder: Path) -> Site:
        own = folder / "counterpart"
        own.mkdir()
        site = self._running.enter_context(opened((self._name,), own))[self._name]
        if isinstance(site, NotInstalledError):
            raise BrokenPromiseError(f"the counterpart cannot be had on this machine: {site}")
        return site

    def close(self) -> None:
        """Ends the counterpart."""
        self._running.close()


def _policy(policy: keyfold.AccessPolicy) -> str:
    what = ", ".join(statement.title for statement in policy.statements)
    shows = f"; Keyfold shows the external id {policy.external_id}" if policy.external_id else ""
    return f"for {policy.principal}: {what}{shows}"


def _shown(key: RootKey) -> str:
    return f"{key.uri}, used as {key.principal}" if key.principal else key.uri


def choose(name: str) -> int:
    """Runs the demo on the provider of that name; returns its exit code."""
    if name not in CLOUDS:
        Report().broken(f"PROVIDER is {name!r}; give one of {', '.join(CLOUDS)}, or none", "")
        return EXIT_USAGE
    return main(CloudStage(name))


if __name__ == "__main__":
    sys.exit(choose(os.environ.get("PROVIDER", "")))
