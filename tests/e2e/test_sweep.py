"""A real server's sweep shows the state of each provider's keys, though nobody uses them.

One server has all providers. A story runs at all of them at once, since most of it is waiting,
and each provider's test then gets the result for its provider. Nothing but the sweep calls a KMS
meanwhile: the TTL outlasts the stories, and the tests read ListClusters instead of GetStatus.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final

import pytest

import keyfold
from contract import aws_kms, azure_key_vault, gcp_kms, local, vault_transit
from contract.counterparts import Ability, Counterpart, NotInstalledError, Row, without
from e2e.conftest import StartServer
from e2e.provider_sites import CLOUDS, EVERY, ORGANIZATION, Site, opened, settings, spec_of
from keyfold_server.domain.keyspec import RootKey

pytestmark = pytest.mark.timeout(180)

REGION: Final = "eu"
SECRET: Final = b"a data encryption key of somebody"

INTERVAL: Final = 10.0
"""Seconds from one sweep to the next: the shortest that the settings take."""

SLACK: Final = 20.0
"""Seconds that a busy machine may take besides, and the store to learn of it."""

PAUSE: Final = 0.2
"""Seconds between two checks."""

ROWS: Final = {
    "aws": aws_kms.ROW,
    "azure": azure_key_vault.ROW,
    "gcp": gcp_kms.ROW,
    "vault": vault_transit.ROW,
    "local": local.ROW,
}

WRAP: Final = {
    "aws": r"kms:Encrypt",
    "azure": r"Microsoft\.KeyVault/vaults/keys/wrap/action",
    "gcp": r"cloudkms\.cryptoKeyVersions\.useToEncrypt",
    "vault": r"update transit-\w+/encrypt/key-\d+",
}
"""The permission to wrap, as each provider names it."""

DESCRIBE: Final = {
    "aws": r"kms:DescribeKey",
    "azure": r"Microsoft\.KeyVault/vaults/keys/read",
    "gcp": r"cloudkms\.cryptoKeys\.get",
    "vault": r"read transit-\w+/keys/key-\d+",
}
"""The permission to describe, as each provider names it."""

each_cloud = pytest.mark.parametrize("provider", CLOUDS)
each_provider = pytest.mark.parametrize("provider", EVERY)
numbers = itertools.count(1)


@dataclass
class Customer:
    """A cluster under a root key, whose state a test reads without a call to its KMS."""

    client: keyfold.Client
    key: RootKey
    cluster: str

    @property
    def seen(self) -> keyfold.RegionStatus:
        """The region's status, as the server knows it."""
        for status in self.client.list_clusters():
            if status.cluster == self.cluster:
                return status.regions[0]
        raise AssertionError(self.cluster)

    def swept(self, there: Callable[[keyfold.RegionStatus], object]) -> keyfold.RegionStatus:
        """Waits until a sweep makes a condition on the status hold; returns that status."""
        ends = time.monotonic() + INTERVAL + SLACK
        while not there(seen := self.seen):
            assert time.monotonic() < ends, f"not shown within the sweep: {seen}"
            time.sleep(PAUSE)
        return seen


@dataclass(frozen=True)
class Place:
    """One provider in a story: its name, its counterpart, and a client of the server."""

    name: str
    there: Counterpart
    client: keyfold.Client

    def listed(self, **narrow: Any) -> list[str]:
        """Returns the names of the clusters that pass a filter."""
        which = keyfold.ClusterFilter(**narrow)
        return [one.cluster for one in self.client.list_clusters(which)]

    @property
    def row(self) -> Row:
        """The provider's row in the contract's table."""
        return ROWS[self.name]

    def customer(self, *, auto_rotate: bool = False) -> Customer:
        """Makes a cluster under a root key of its own, whose KEK nobody uses."""
        key = self.there.create_key()
        cluster = f"cluster-{next(numbers)}"
        policy = keyfold.RegionPolicy(auto_rotate=auto_rotate)
        specs = [keyfold.RegionSpec(REGION, spec_of(key), policy)]
        self.client.enable(cluster, specs, organization=ORGANIZATION)
        return Customer(self.client, key, cluster)


Story = Callable[[Place], None]


class Places:
    """All available providers, and the stories that ran at them."""

    def __init__(self, sites: dict[str, Site | NotInstalledError], client: keyfold.Client) -> None:
        self._sites = sites
        self._client = client
        self._threads = ThreadPoolExecutor(len(sites))
        self._lived: dict[Any, dict[str, Future[None]]] = {}

    def live(self, provider: str, story: Story) -> None:
        """Runs a story at all providers, once and alone; raises what it raised at one of them."""
        site = self._sites[provider]
        if isinstance(site, NotInstalledError):
            without(site)
        if story not in self._lived:
            self._lived[story] = {
                name: self._threads.submit(story, Place(name, each.there, self._client))
                for name, each in self._sites.items()
                if isinstance(each, Site)
            }
            wait(self._lived[story].values())
        self._lived[story][provider].result()

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, start_module_server: StartServer
) -> Iterator[Places]:
    """Starts the counterparts, and then the server, once for all tests of this file."""
    folder = tmp_path_factory.mktemp("sites")
    with opened(EVERY, folder) as found:
        there = [site for site in found.values() if isinstance(site, Site)]
        told = settings(there, folder / "keyfold.toml")
        told |= {"KEYFOLD_SWEEP_INTERVAL": f"{INTERVAL}s", "KEYFOLD_CACHE_TTL": "15m"}
        server = start_module_server(keys=(), ready=True, **told)
        with server.client(timeout=SLACK) as client:
            for site in there:
                site.admit(client, organization=ORGANIZATION)
            places = Places(found, client)
            yield places
            places.close()
        server.stop()


def wrap_permission_lost(place: Place) -> None:
    """A customer takes the permission to wrap away, and nothing else, and gives it back."""
    if not place.row.has(Ability.PERMISSIONS):
        return
    customer = place.customer()
    blob = place.client.wrap(customer.cluster, REGION, SECRET).wrapped_key
    assert customer.seen.can_wrap
    place.there.deny(customer.key, "wrap")
    seen = customer.swept(lambda seen: seen.can_wrap is False)
    assert (seen.health, seen.can_unwrap) == (keyfold.Health.HEALTHY, True)
    assert seen.last_error is not None
    assert seen.last_error.reason == "ACCESS_DENIED"
    assert re.fullmatch(WRAP[place.name], seen.last_error.missing_permission)
    # Filters read the store, which learns of it a moment later.
    customer.swept(lambda _: customer.cluster in place.listed(can_wrap=False))
    assert place.client.unwrap(customer.cluster, blob).plaintext == SECRET
    place.there.restore(customer.key, "wrap")
    seen = customer.swept(lambda seen: seen.can_wrap)
    assert (seen.health, seen.last_error) == (keyfold.Health.HEALTHY, None)


@each_cloud
def test_a_lost_permission_to_wrap_shows(places: Places, provider: str) -> None:
    """A policy that loses only Encrypt shows within the sweep, the permission named (F5)."""
    places.live(provider, wrap_permission_lost)


def describe_permission_lost(place: Place) -> None:
    """A customer takes the permission to describe away, and nothing else, and gives it back."""
    if not place.row.has(Ability.PERMISSIONS):
        return
    customer = place.customer()
    assert customer.swept(lambda seen: seen.can_describe).notices == ()
    place.there.deny(customer.key, "describe")
    seen = customer.swept(lambda seen: seen.can_describe is False)
    assert (seen.health, seen.can_wrap, seen.last_error) == (keyfold.Health.HEALTHY, True, None)
    [notice] = seen.notices
    assert re.search(rf"missing permission: {DESCRIBE[place.name]};", notice)
    place.there.restore(customer.key, "describe")
    assert customer.swept(lambda seen: seen.can_describe).notices == ()


@each_cloud
def test_a_lost_permission_to_describe_shows(places: Places, provider: str) -> None:
    """A policy that loses only the action to describe shows within the sweep, too (F5)."""
    places.live(provider, describe_permission_lost)


def idle_key_disabled(place: Place) -> None:
    """A customer disables a key that nobody uses, and enables it again."""
    customer = place.customer()
    place.there.disable(customer.key)
    seen = customer.swept(lambda seen: seen.health is keyfold.Health.KEY_DISABLED)
    assert seen.can_unwrap is False
    assert seen.last_error is not None
    assert seen.last_error.reason == "KEY_DISABLED"
    place.there.enable(customer.key)
    seen = customer.swept(lambda seen: seen.health is keyfold.Health.HEALTHY)
    assert (seen.can_wrap, seen.can_unwrap, seen.last_error) == (True, True, None)
    assert place.client.wrap(customer.cluster, REGION, SECRET).wrapped_key


@each_provider
def test_an_idle_key_that_is_disabled_shows(places: Places, provider: str) -> None:
    """The status of a key that nobody uses changes within the sweep, both ways (F4, F5)."""
    places.live(provider, idle_key_disabled)


def newer_version(place: Place) -> None:
    """A customer rotates the root key, and takes the old version out of use."""
    follows, stays = place.customer(auto_rotate=True), place.customer()
    blob = place.client.wrap(follows.cluster, REGION, SECRET).wrapped_key
    old = follows.seen.key_version
    for customer in (follows, stays):
        place.there.new_version(customer.key)
    seen = follows.swept(lambda seen: seen.key_version != old)
    # A list of clusters has the current wrap of each KEK; the status has those before it, too.
    (generation,) = place.client.get_status(follows.cluster).regions[0].generations
    assert [wrap.key_version for wrap in generation.wraps] == [old, seen.key_version]
    assert [wrap.supersede_time is None for wrap in generation.wraps] == [False, True]
    if place.row.has(Ability.VERSION_STATES):
        place.there.disable(follows.key, old)
    assert place.client.unwrap(follows.cluster, blob).plaintext == SECRET
    asked = stays.seen.last_check_time
    stays.swept(lambda seen: seen.last_check_time != asked)
    assert len(stays.seen.generations[0].wraps) == 1


@each_provider
def test_a_newer_version_is_followed(places: Places, provider: str) -> None:
    """With auto_rotate KEKs move to a newer version within the sweep; the old one may go (F5)."""
    places.live(provider, newer_version)
