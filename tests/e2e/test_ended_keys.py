"""A key that its customer ends at a real OpenBao, while three replicas have it in memory.

`bench/run.py disable` measures how soon each replica refuses. What holds on any machine is here.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Final

import pytest

import keyfold
from contract.counterparts import Counterpart, NotInstalledError, without
from e2e.conftest import SharedStore, StartServer
from e2e.provider_sites import opened, settings, spec_of
from keyfold_server.domain.keyspec import RootKey

pytestmark = pytest.mark.timeout(180)

COUNT: Final = 3
TTL: Final = 2.0
"""Seconds for which one proof holds where nobody calls Recheck."""

PAUSE: Final = 0.05
SECRET: Final = b"a data encryption key of somebody"
WAYS: Final = {"disable": "KEY_DISABLED", "deny": "ACCESS_DENIED"}
"""What the customer does, and the reason that callers hear."""

names = (f"cluster-{number}" for number in itertools.count(1))


class House:
    """Three replicas on one PostgreSQL, and the customer's OpenBao."""

    def __init__(self, clients: list[keyfold.Client], there: Counterpart) -> None:
        self.clients = clients
        self._there = there

    def warm(self, ttl: float) -> tuple[str, bytes, RootKey]:
        """Makes a cluster with a key of its own, and uses the key on every replica.

        Returns:
            The cluster's name, a wrapped key, and the root key.
        """
        key, cluster = self._there.create_key(), next(names)
        # Without grace, an OpenBao that is slow on a busy machine lengthens nothing.
        policy = keyfold.RegionPolicy(timedelta(seconds=ttl), timedelta(0))
        self.clients[0].enable(cluster, [keyfold.RegionSpec("eu", spec_of(key), policy)])
        blob = self.clients[0].wrap(cluster, "eu", SECRET).wrapped_key
        for client in self.clients:
            assert client.unwrap(cluster, blob).plaintext == SECRET
        return cluster, blob, key

    def end(self, key: RootKey, way: str) -> None:
        """Ends a key as the customer."""
        if way == "disable":
            self._there.disable(key)
        else:
            self._there.deny(key, "unwrap")


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory,
    start_module_server: StartServer,
    shared_store: SharedStore,
) -> Iterator[House]:
    """Starts OpenBao and the replicas once for all tests of this file."""
    folder = tmp_path_factory.mktemp("openbao")
    with opened(("vault",), folder) as found, ExitStack() as stack:
        site = found["vault"]
        if isinstance(site, NotInstalledError):
            without(site)
        shared_store.settings |= settings([site], folder / "keyfold.toml")
        servers = shared_store.servers(start_module_server, COUNT)
        clients = [stack.enter_context(server.client()) for server in servers]
        yield House(clients, site.there)


@pytest.mark.parametrize("way", WAYS)
def test_a_recheck_ends_it_on_every_replica(house: House, way: str) -> None:
    """F2: once Recheck has confirmed all replicas, none serves the key, whatever its TTL."""
    cluster, blob, key = house.warm(600.0)
    house.end(key, way)
    answer = house.clients[1].recheck(key_uri=key.uri)
    assert [each.health for each in answer.results] == [WAYS[way]]
    assert (len(answer.confirmed), answer.pending) == (COUNT, ())
    for client in house.clients:
        with pytest.raises(keyfold.RefusedError) as caught:
            client.unwrap(cluster, blob)
        assert caught.value.reason == WAYS[way]


@pytest.mark.parametrize("way", WAYS)
def test_without_a_recheck_it_ends_with_the_ttl(house: House, way: str) -> None:
    """F1, F2: no replica serves a call that began later than `cache_ttl` after the key's end."""
    cluster, blob, key = house.warm(TTL)
    house.end(key, way)
    ended = time.monotonic()

    def refused(client: keyfold.Client) -> keyfold.RefusedError:
        while True:
            began = time.monotonic()
            try:
                client.unwrap(cluster, blob)
                assert began < ended + TTL
            except keyfold.RefusedError as error:
                return error
            except keyfold.CouldNotTellError:
                pass  # It served nothing.
            time.sleep(PAUSE)

    with ThreadPoolExecutor(COUNT) as pool:
        errors = list(pool.map(refused, house.clients))
    assert [error.reason for error in errors] == [WAYS[way]] * COUNT
