"""Takes the same walk with another KMS: `make demo PROVIDER=vault`, or aws, azure or gcp.

It needs no account. It starts a counterpart of the KMS on this machine, and ends it with the demo.
The walk acts for the customer through the counterpart. The rest is as in demo.py, and the server
has the settings that it would have for the real KMS.
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

# The tests have the counterparts, and the settings of a server for each.
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
"""Seconds until an enabled key must serve again: 5, and 10 more for a busy machine."""

PAUSE: Final = 0.1
NEXT: Final = "eu-next"


class Keys:
    """The customer's root keys at the counterpart.

    Attributes:
        site: The counterpart.
        by_name: The root keys by name: `eu`, `us` and `eu-next`.
        manifest: The region specs file with the root keys of `eu` and `us`.
        next: The region specs file with the root key to which `eu` moves.
    """

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.by_name: dict[str, RootKey] = {}
        self.manifest = folder / "cmek_config.json"
        self.next = folder / "next.json"

    def create(self, name: str) -> RootKey:
        """Makes a root key, and writes the region specs file that names it."""
        key = self.by_name[name] = self.site.there.create_key()
        if name == NEXT:
            self.next.write_text(manifest({"eu": key}), encoding="utf-8")
        else:
            self.manifest.write_text(manifest(self.by_name), encoding="utf-8")
        return key

    def new_version(self) -> str:
        """Makes a new version of `eu`'s first key."""
        self.site.there.new_version(self.by_name["eu"])
        return "made a new version"

    def disable(self, name: str) -> str:
        """Disables a root key."""
        self.site.there.disable(self.by_name[name])
        return "disabled"

    def enable(self, name: str) -> str:
        """Enables a root key."""
        self.site.there.enable(self.by_name[name])
        return "enabled"


class CloudWalk(Walk):
    """The steps of the walk with a KMS, with a move to another key, and a disabled root key."""

    newest = 3

    def __init__(
        self, report: Report, server: Server, file: Path, folder: Path, *, keys: Keys
    ) -> None:
        super().__init__(report, server, file, folder)
        self._keys = keys
        self.specs = keys.manifest
        self.shown_specs = keys.manifest.name

    def _enable(self) -> None:
        self._report.step("Get the policy that lets Keyfold use the keys; the customer attaches it")
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
        self._report.step("Disable the root key that it left")
        self._customer("disables the first key of region eu", lambda: self._keys.disable("eu"))

    def _end(self, wrapped_key: bytes) -> None:
        self._report.step("Disable the root key in use, as a customer who withdraws it")
        self._customer("disables the key of region eu", lambda: self._keys.disable(NEXT))
        self._refused(wrapped_key, keyfold.KeyDisabledError)
        self._report.step("Enable it; service resumes by itself")
        self._customer("enables the key of region eu", lambda: self._keys.enable(NEXT))
        self._report.ask(
            f'client.unwrap("{CLUSTER}", wrapped_key, context=…), until it succeeds',
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
    """Prepares the walk: starts a counterpart and a server for it, and makes the root keys."""

    def __init__(self, name: str) -> None:
        """Takes a provider's name; `start` starts the counterpart."""
        self._name = name
        self._service = SERVICES[name]
        self._running = ExitStack()
        self._keys: Keys | None = None
        self.title = f"The life of a key under {self._service}"
        self.about = (
            f"A counterpart of {self._service} runs on this machine:",
            "it is not the real service, and no account is used.",
        )

    def start(
        self, report: Report, server: Server, folder: Path, interruptions: Interruptions
    ) -> None:
        """Starts the counterpart, makes the root keys and starts the server."""
        report.step(f"Start a counterpart of the customer's {self._service}")
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
            raise BrokenPromiseError(f"this machine cannot run the counterpart: {site}")
        return site

    def close(self) -> None:
        """Ends the counterpart."""
        self._running.close()


def _policy(policy: keyfold.AccessPolicy) -> str:
    what = ", ".join(statement.title for statement in policy.statements)
    shows = f"; Keyfold sends the external id {policy.external_id}" if policy.external_id else ""
    return f"for {policy.principal}: {what}{shows}"


def _shown(key: RootKey) -> str:
    return f"{key.uri}, used as {key.principal}" if key.principal else key.uri


def choose(name: str) -> int:
    """Runs the demo with the provider of that name, and returns its exit code."""
    if name not in CLOUDS:
        Report().broken(
            f"PROVIDER is {name!r}; give one of {', '.join(CLOUDS)}, or leave it out", ""
        )
        return EXIT_USAGE
    return main(CloudStage(name))


if __name__ == "__main__":
    sys.exit(choose(os.environ.get("PROVIDER", "")))
