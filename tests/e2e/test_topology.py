"""Declared regions, replicas that follow and geos: a real server, the CLI, and AWS's own rules.

The settings have Kong Konnect's geos, as the documentation ships them. The server calls the KMS for
every call, so a wrapped key opens only under the root key that the test left in use.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import keyfold
from contract.aws_kms import AwsCounterpart
from contract.counterparts import NotInstalledError, without
from e2e.conftest import StartServer
from e2e.provider_sites import ORGANIZATION, Site, opened, settings
from e2e.server import ROOT, Server
from keyfold_server.domain.keyspec import RootKey

pytestmark = pytest.mark.timeout(180)

HOME: Final = "eu-west-1"
OTHER: Final = "eu-central-1"
"""Konnect's geo EU has these two regions."""

SECRET: Final = b"a data encryption key of somebody"
names = (f"cluster-{number}" for number in itertools.count(1))


class Konnect:
    """A server whose settings have Konnect's geos, and a customer at AWS.

    Attributes:
        server: The server.
        there: The customer's AWS.
        client: A client of the server.
    """

    def __init__(self, server: Server, there: AwsCounterpart, client: keyfold.Client) -> None:
        self.server = server
        self.there = there
        self.client = client

    def status(self, cluster: str) -> keyfold.ClusterStatus:
        """Returns a status once the channel, which pauses between its attempts, is back."""
        while True:
            try:
                return self.client.get_status(cluster)
            except keyfold.UnavailableError:
                time.sleep(0.1)

    def key(self, *regions: str) -> dict[str, RootKey]:
        """Makes a multi-Region key, with replicas in further regions."""
        key = self.there.create_key(MultiRegion=True)
        return {HOME: key} | {each: self.there.replicate(key, each) for each in regions}

    def geo(self, key: RootKey, geo: str = "EU") -> str:
        """Returns the argument that gives a geo a key."""
        return f"{geo}={key.type},{key.uri},{key.principal}"

    def enabled(self, keys: dict[str, RootKey]) -> tuple[str, dict[str, bytes]]:
        """Enables a new cluster in geo EU; returns its name, and a wrapped key of each region."""
        cluster = next(names)
        self.server.cli(
            "enable", cluster, "--organization", ORGANIZATION, "--geo", self.geo(keys[HOME])
        )
        return cluster, {
            region: self.client.wrap(cluster, region, SECRET).wrapped_key for region in keys
        }

    def uris(self, cluster: str) -> dict[str, tuple[str, str]]:
        """Returns the key of each region of a cluster, and whose replica it is."""
        regions = self.client.get_status(cluster).regions
        return {each.region: (each.key_spec.uri, each.replica_of) for each in regions}


@pytest.fixture(scope="module")
def konnect(
    tmp_path_factory: pytest.TempPathFactory, start_module_server: StartServer
) -> Iterator[Konnect]:
    """Starts the counterpart and the server once for all tests of this file."""
    folder = tmp_path_factory.mktemp("konnect")
    with opened(("aws",), folder) as found:
        site = found["aws"]
        if isinstance(site, NotInstalledError):
            without(site)
        assert isinstance(site, Site)
        there = site.there
        assert isinstance(there, AwsCounterpart)
        site.tables += (ROOT / "docs" / "examples" / "konnect-geos.toml").read_text()
        told = settings([site], folder / "keyfold.toml")
        server = start_module_server(keys=("a",), ready=True, KEYFOLD_CACHE_TTL="0s", **told)
        with server.client(timeout=15) as client:
            site.admit(client, organization=ORGANIZATION)
            yield Konnect(server, there, client)
        server.stop()


def matches(known: dict[str, RootKey]) -> dict[str, tuple[str, str]]:
    """Returns what `uris` returns if the regions use the key and its replica."""
    return {OTHER: (known[OTHER].uri, HOME), HOME: (known[HOME].uri, "")}


def test_one_key_for_a_geo(konnect: Konnect) -> None:
    """Konnect's promise: one key, replicated to every region of the geo; each is proven."""
    keys = konnect.key()
    key = ("AWS_KMS", keys[HOME].uri, "--principal", keys[HOME].principal)
    tried = ("test-key", *key, "--cluster", "t", "--organization", ORGANIZATION, "--geo", "EU")
    told = konnect.server.cli(*tried, code=5)
    assert f"region {OTHER}: there is no replica of region {HOME}'s key at " in told
    assert "(KEY_NOT_FOUND)" in told
    cluster = next(names)
    enable = ("enable", cluster, "--organization", ORGANIZATION, "--geo", konnect.geo(keys[HOME]))
    assert f"region {OTHER}: " in konnect.server.cli(*enable, code=5)
    with pytest.raises(keyfold.ClusterNotFoundError):
        konnect.client.get_status(cluster)

    keys[OTHER] = konnect.there.replicate(keys[HOME], OTHER)
    konnect.there.deny(keys[OTHER], "unwrap")
    told = konnect.server.cli(*enable, code=5)
    assert "a replica has a policy of its own" in told
    assert "(ACCESS_DENIED)" in told
    konnect.there.restore(keys[OTHER], "unwrap")
    konnect.server.cli(*tried)
    konnect.server.cli(*enable)
    assert konnect.uris(cluster) == matches(keys)
    for region in (HOME, OTHER):
        blob = konnect.client.wrap(cluster, region, SECRET).wrapped_key
        assert konnect.client.unwrap(cluster, blob).plaintext == SECRET


def test_a_key_that_cannot_serve_a_geo(konnect: Konnect) -> None:
    """A key of one region, a geo elsewhere and an unknown geo each have an error of their own."""
    single = konnect.there.create_key()
    multi = konnect.key()[HOME]
    for key, geo, told in (
        (single, "EU", "only a multi-Region key has replicas"),
        (
            multi,
            "US",
            "where geo US has no region; name its replica in one of us-east-2, us-west-2",
        ),
        (multi, "EMEA", "there is no geo EMEA: the settings have AU, EU, IN, ME, SG, US"),
    ):
        said = konnect.server.cli("enable", next(names), "--geo", konnect.geo(key, geo), code=2)
        assert told in said


def test_a_key_takes_its_replicas_along(konnect: Konnect) -> None:
    """Rotate of one region moves the geo's key as a whole; the old key is needed nowhere then."""
    old, new = konnect.key(OTHER), konnect.key(OTHER)
    cluster, blobs = konnect.enabled(old)
    konnect.server.cli(
        "rotate", cluster, "--region", f"{HOME}=AWS_KMS,{new[HOME].uri},{new[HOME].principal}"
    )
    assert konnect.uris(cluster) == matches(new)
    for key in old.values():
        konnect.there.deny(key, "unwrap")
    for region, blob in blobs.items():
        opened_now = konnect.client.unwrap(cluster, blob)
        assert (opened_now.plaintext, opened_now.region) == (SECRET, region)


def test_a_replica_that_cannot_move_is_named(konnect: Konnect) -> None:
    """A missing replica holds up the whole rotation, unless the request leaves it behind."""
    old, new = konnect.key(OTHER), konnect.key()
    cluster, blobs = konnect.enabled(old)
    moved = f"{HOME}=AWS_KMS,{new[HOME].uri},{new[HOME].principal}"
    rotate = ("rotate", cluster, "--region", moved)
    told = konnect.server.cli(*rotate, code=5)
    assert f"region {OTHER}: " in told
    assert f"it rotates with region {HOME}, whose replica it is" in told
    assert konnect.uris(cluster) == matches(old)
    konnect.server.cli(*rotate, "--only-named-regions")
    assert konnect.uris(cluster) == {OTHER: (old[OTHER].uri, ""), HOME: (new[HOME].uri, "")}
    for blob in blobs.values():
        assert konnect.client.unwrap(cluster, blob).plaintext == SECRET


def test_new_key_material_reaches_every_replica(konnect: Konnect) -> None:
    """AWS rotates the material of a multi-Region key everywhere at once, and so does Rotate."""
    keys = konnect.key(OTHER)
    cluster, blobs = konnect.enabled(keys)
    konnect.there.new_version(keys[HOME])
    before = {r.region: r.key_version for r in konnect.client.get_status(cluster).regions}
    assert len(set(before.values())) == 1
    konnect.server.cli("rotate", cluster, "--region", HOME)
    after = {r.region: r.key_version for r in konnect.client.get_status(cluster).regions}
    assert len(set(after.values())) == 1
    assert set(after.values()).isdisjoint(before.values())
    for blob in blobs.values():
        assert konnect.client.unwrap(cluster, blob).plaintext == SECRET


def cockroach(folder: Path, nodes: list[str], specs: list[str]) -> str:
    """Writes a file as CockroachDB's documentation has it; returns its path."""
    content: dict[str, Any] = {
        "region_nodes": dict.fromkeys(nodes, 3),
        "cmek_region_specs": [
            {"region": each, "key_spec": {"type": "LOCAL", "uri": "local:a"}} for each in specs
        ],
        "hardware": {"machine_type": "n2-standard-8"},
    }
    path = folder / "cmek_config.json"
    text = json.dumps({"dedicated": content}, indent=2)
    path.write_text(f"# cmek_config.json\n{text}\n")
    return str(path)


def test_the_life_of_a_cockroachdb_file(konnect: Konnect, tmp_path: Path) -> None:
    """A spec for each region that has nodes, or nothing; it holds after a restart, too."""
    server, cluster = konnect.server, next(names)
    two = ["us-west-1", "us-central-1"]
    told = server.cli("enable", cluster, "--file", cockroach(tmp_path, two, two[:1]), code=2)
    assert "no key spec for region us-central-1" in told
    server.cli("enable", cluster, "--file", cockroach(tmp_path, two, two))
    server.restart()
    assert konnect.status(cluster).declared_regions == tuple(sorted(two))
    three = [*two, "eu-west-1"]
    told = server.cli("add-regions", cluster, "--file", cockroach(tmp_path, three, two), code=2)
    assert "no key spec for region eu-west-1" in told
    server.cli("add-regions", cluster, "--file", cockroach(tmp_path, three, three[2:]))
    told = server.cli("enable", cluster, "--file", cockroach(tmp_path, [], two), code=2)
    assert "no key spec for region eu-west-1" in told
    server.cli("rotate", cluster, "--file", cockroach(tmp_path, three, two[:1]))

    action = tmp_path / "revoke.json"
    action.write_text('# PATCH …/cmek\n{"action": "REVOKE"}\n')
    assert "give --yes" in server.cli("revoke", cluster, "--file", str(action), code=2)
    server.cli("revoke", cluster, "--file", str(action), "--yes")
    with pytest.raises(keyfold.RevokedError):
        konnect.client.wrap(cluster, "us-west-1", SECRET)
