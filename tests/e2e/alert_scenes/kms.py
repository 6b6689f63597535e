"""Scenes of customers' KMSs, each with OpenBao, and of a provider with a defect."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import keyfold
from contract.counterparts import Ability, NotInstalledError, without
from contract.vault_transit import VaultCounterpart
from e2e.alert_scenes.callers import again
from e2e.alert_scenes.stage import Stage, provokes
from e2e.hurried_server import HurriedServer
from e2e.provider_sites import opened, settings, spec_of
from keyfold.checks import FAILED
from keyfold_server.domain.keyspec import RootKey

_OPENING: Final = threading.Lock()
"""Held while a counterpart is opened: they share what the first of them makes."""


def with_vault(stage: Stage, sweep: str = "10m") -> tuple[HurriedServer, VaultCounterpart, RootKey]:
    """Starts a server with a cluster `prod` whose one root key is in OpenBao."""
    with _OPENING:
        site = stage.enter(opened(("vault",), stage.folder))["vault"]
    if isinstance(site, NotInstalledError):
        without(site)
    assert isinstance(site.there, VaultCounterpart)
    file = stage.folder / "settings.toml"
    own = {**settings([site], file), "KEYFOLD_CACHE_TTL": "3s"}
    own["KEYFOLD_SWEEP_INTERVAL"] = sweep
    server = stage.server(own, keys=())
    key = site.there.create_key()
    with server.client() as client:
        client.enable("prod", [keyfold.RegionSpec("eu", spec_of(key))])
    return server, site.there, key


@contextmanager
def used(server: HurriedServer) -> Iterator[None]:
    """Uses the keys of `prod` meanwhile, whether that succeeds or not."""

    def use() -> None:
        with server.client() as client, contextlib.suppress(keyfold.KeyfoldError):
            client.wrap("prod", "eu", b"k")

    use()
    with again(use, 0.5):
        yield


def unlock(there: VaultCounterpart) -> None:
    """Ends the lock-out of Keyfold's role, as its page for Vault says."""
    mount = there.server.call("GET", f"sys/auth/{there.login}")["data"]["accessor"]
    role = there.server.call("GET", f"auth/{there.login}/role/keyfold/role-id")["data"]["role_id"]
    there.server.call("POST", f"sys/locked-users/{mount}/unlock/{role}")


@provokes("KeyfoldKeksInGrace", "KeyfoldKmsAway")
def kms_away(stage: Stage) -> None:
    """A customer's KMS refuses connections, and comes back."""
    server, there, _ = with_vault(stage)
    with used(server), ExitStack() as fault:
        fault.enter_context(there.outage(Ability.REFUSED))
        stage.fires("KeyfoldKeksInGrace")
        stage.fires("KeyfoldKmsAway", health="UNREACHABLE")
        with (
            stage.runbook("KeyfoldKeksInGrace", server) as grace,
            stage.runbook("KeyfoldKmsAway", server) as away,
        ):
            for book in (grace, away):
                assert "prod" in book.run()
            assert "until" in grace.run()
            assert "refuses connections" in away.run()
            fault.close()
            for book in (grace, away):
                assert "eu" in book.run()
    stage.ends("KeyfoldKeksInGrace")
    stage.ends("KeyfoldKmsAway", health="UNREACHABLE")


@provokes("KeyfoldKeyRefused")
def refused(stage: Stage) -> None:
    """A customer disables a root key, enables it again, and leaves for good."""
    server, there, key = with_vault(stage)
    with used(server):
        there.disable(key)
        stage.fires("KeyfoldKeyRefused", health="KEY_DISABLED")
        with stage.runbook("KeyfoldKeyRefused", server) as book:
            assert "prod" in book.run()
            assert "KEY_DISABLED" in book.run()
            there.enable(key)
            book.run()
            stage.ends("KeyfoldKeyRefused", health="KEY_DISABLED")
            there.disable(key)
            stage.fires("KeyfoldKeyRefused", health="KEY_DISABLED")
            book.run()
    stage.ends("KeyfoldKeyRefused", health="KEY_DISABLED")


@provokes("KeyfoldCannotWrap")
def cannot_wrap(stage: Stage) -> None:
    """A customer's policy lets Keyfold unwrap and no longer wrap."""
    server, there, key = with_vault(stage, sweep="10s")
    there.deny(key, "wrap")
    stage.fires("KeyfoldCannotWrap")
    with stage.runbook("KeyfoldCannotWrap", server) as book:
        assert "prod" in book.run()
        assert "encrypt" in book.run()
    there.restore(key, "wrap")
    stage.ends("KeyfoldCannotWrap")


@provokes("KeyfoldCredentialsFailed")
def credentials(stage: Stage) -> None:
    """The secret id is destroyed with which Keyfold logs in, and made anew."""
    server, there, _ = with_vault(stage)
    with used(server), ExitStack() as fault:
        fault.enter_context(there.broken_credentials())
        stage.fires("KeyfoldCredentialsFailed", provider="VAULT_TRANSIT")
        with stage.runbook("KeyfoldCredentialsFailed", server) as book:
            assert "VAULT" in book.run(code=FAILED)
            fault.close()
            unlock(there)
            assert "HEALTHY" in book.run()
    stage.ends("KeyfoldCredentialsFailed")


@provokes("KeyfoldRefreshesNotAsked")
def refreshes(stage: Stage) -> None:
    """A server has more root keys in use than it may ask about."""
    keys = [f"key-{number}" for number in range(12)]
    server = stage.server({"KEYFOLD_CACHE_TTL": "2s"}, keys=keys)
    server.enable("prod", keys)
    server.restart(KEYFOLD_KMS_RATE_PER_ACCOUNT="1", KEYFOLD_KMS_RATE_PER_PROVIDER="1")
    stage.scrape(server)

    def use() -> None:
        with server.client() as client:
            for key in keys:
                with contextlib.suppress(keyfold.KeyfoldError):
                    client.wrap("prod", key, b"k")

    with again(use, 0.5):
        stage.fires("KeyfoldRefreshesNotAsked", provider="LOCAL")
        server.restart(KEYFOLD_KMS_RATE_PER_ACCOUNT=None, KEYFOLD_KMS_RATE_PER_PROVIDER=None)
        stage.scrape(server)
        stage.ends("KeyfoldRefreshesNotAsked")


@provokes("KeyfoldUnexpectedError", "KeyfoldTaskFailing")
def defect(stage: Stage) -> None:
    """A third party's provider raises what no provider may raise, until it is replaced."""
    lost = stage.folder / "lost"
    server = stage.server({"ODD_LOST": str(lost), "KEYFOLD_SWEEP_INTERVAL": "10s"}, keys=())
    regions = [f"region-{number}" for number in range(12)]
    with server.client() as client:
        client.enable(
            "prod",
            [
                keyfold.RegionSpec(region, keyfold.KeySpec("ODD", f"odd:lost-{region}"))
                for region in regions
            ],
        )
    lost.touch()

    def call() -> None:
        with server.client() as client, contextlib.suppress(keyfold.KeyfoldError):
            client.test_key(keyfold.KeySpec("ODD", "odd:lost"), region="eu", cluster="prod")

    with again(call, 1):
        stage.fires("KeyfoldUnexpectedError")
    assert "incident" in server.log()
    stage.fires("KeyfoldTaskFailing", task="sweep")
    assert "task sweep failed" in server.log()
    lost.unlink()
    stage.ends("KeyfoldUnexpectedError")
    stage.ends("KeyfoldTaskFailing")
