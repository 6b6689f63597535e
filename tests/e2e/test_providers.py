"""The whole product on each provider: a real server, the CLI, and what a customer does.

One server has all providers at once. It calls the KMS for every call and answers nothing from
memory, so a wrapped key opens only under the root key that the test left in use.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import keyfold
from contract.aws_kms import AwsCounterpart
from contract.azure_key_vault import AzureCounterpart
from contract.counterparts import NotInstalledError, without
from e2e.conftest import StartServer
from e2e.provider_sites import (
    CLOUDS,
    EVERY,
    ORGANIZATION,
    Site,
    manifest,
    opened,
    settings,
    spec_of,
)
from e2e.server import ROOT, Server, clean_environment
from keyfold_server.domain.keyspec import RootKey

pytestmark = pytest.mark.timeout(180)

REGION: Final = "eu"
SECRET: Final = b"a data encryption key of somebody"
REMEMBERED: Final = 5.0
"""Seconds for which a refusal is remembered."""

SLACK: Final = 15.0
"""Seconds that a busy machine may take besides."""

LOCATIONS: Final = {"aws": "eu-west-1", "gcp": "europe-west1"}
"""The regions of those providers whose uris name one."""

each_provider = pytest.mark.parametrize("provider", EVERY)
names = (f"cluster-{number}" for number in itertools.count(1))


class Sites:
    """Every available provider's counterpart, and one server that knows them all.

    Attributes:
        settings: The server's settings that say how to reach the services.
    """

    def __init__(
        self, sites: dict[str, Site | NotInstalledError], server: Server, folder: Path
    ) -> None:
        self._sites = sites
        self._folder = folder
        self.server = server
        self.settings = {
            name: server.settings[name] for name in ("KEYFOLD_CONFIG", "KEYFOLD_ALLOWED_ENDPOINTS")
        }

    def __getitem__(self, name: str) -> Site:
        """Returns a provider's site, or skips the test where its service is not available."""
        site = self._sites[name]
        if isinstance(site, NotInstalledError):
            without(site)
        return site

    def file(self, key: RootKey) -> str:
        """Writes a manifest that gives the region a root key; returns its path."""
        path = self._folder / "cmek_config.json"
        path.write_text(manifest({REGION: key}), encoding="utf-8")
        return str(path)

    def cli(self, *arguments: str, code: int = 0) -> Any:
        """Runs the CLI for its JSON."""
        return json.loads(self.server.cli(*arguments, "--json", code=code))


@pytest.fixture(scope="module")
def sites(
    tmp_path_factory: pytest.TempPathFactory, start_module_server: StartServer
) -> Iterator[Sites]:
    """Starts the counterparts, and then the server, once for all tests of this file."""
    folder = tmp_path_factory.mktemp("sites")
    with opened(EVERY, folder) as found:
        there = [site for site in found.values() if isinstance(site, Site)]
        told = settings(there, folder / "keyfold.toml")
        server = start_module_server(keys=(), ready=True, KEYFOLD_CACHE_TTL="0s", **told)
        with server.client(timeout=SLACK) as client:
            for site in there:
                site.admit(client, organization=ORGANIZATION)
        yield Sites(found, server, folder)
        server.stop()


@pytest.fixture
def client(sites: Sites) -> Iterator[keyfold.Client]:
    """A client of that server."""
    with sites.server.client(timeout=SLACK) as client:
        yield client


def live(**given: str | None) -> subprocess.CompletedProcess[str]:
    """Runs `make live` with this environment over the standard one."""
    named = dict.fromkeys(("PROVIDER", "KEY", "KEY2", "PRINCIPAL", "OPTIONS", "EXTERNAL_ID"), "")
    # A make that runs the tests has set these.
    named |= dict.fromkeys(("MAKEFLAGS", "MAKELEVEL", "MFLAGS"), "")
    return subprocess.run(
        # Nothing here renews the environment that runs the tests.
        ["make", "--no-print-directory", "--old-file=.venv/installed", "live"],
        cwd=ROOT,
        env=clean_environment(**{**named, **given}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def metrics(server: Server) -> str:
    """Reads what Prometheus reads, without the bounds of buckets."""
    (address,) = re.findall(r"metrics on (http://[^\s\"]+)", server.log())
    with urllib.request.urlopen(address, timeout=SLACK) as answer:
        return str(answer.read().decode())


def region_of(answer: Any) -> Any:
    """Returns the one region of what the CLI printed of a cluster."""
    (region,) = answer["status"]["regions"]
    return region


def enabled(client: keyfold.Client, key: RootKey) -> tuple[str, bytes]:
    """Makes a cluster under a root key; returns its name and a wrapped key of it."""
    cluster = next(names)
    specs = [keyfold.RegionSpec(REGION, spec_of(key))]
    client.enable(cluster, specs, organization=ORGANIZATION)
    return cluster, client.wrap(cluster, REGION, SECRET).wrapped_key


def move(client: keyfold.Client, cluster: str, key: RootKey) -> None:
    """Rotates a cluster to another root key."""
    client.rotate(cluster, [keyfold.RegionSpec(REGION, spec_of(key))])


def assert_refused(client: keyfold.Client, key: RootKey) -> None:
    """Asserts that a root key no longer opens, so that whatever opens needs another key."""
    steps = client.test_key(spec_of(key), organization=ORGANIZATION).steps
    assert "KEY_DISABLED" in {step.reason for step in steps}


def opens(client: keyfold.Client, cluster: str, blob: bytes) -> bool:
    """Tells whether a wrapped key opens, or is refused because the root key is disabled."""
    try:
        return client.unwrap(cluster, blob).plaintext == SECRET
    except keyfold.KeyDisabledError:
        return False


@each_provider
def test_the_life_of_a_key(sites: Sites, client: keyfold.Client, provider: str) -> None:
    """From a manifest through a new version and another key: every old wrapped key opens."""
    there = sites[provider].there
    first, second = there.create_key(), there.create_key()
    cluster = next(names)
    made = region_of(
        sites.cli("enable", cluster, "--organization", ORGANIZATION, "--file", sites.file(first))
    )
    assert made["key_spec"]["uri"] == first.uri
    blobs = [client.wrap(cluster, REGION, SECRET).wrapped_key]

    there.new_version(first)
    rotated = region_of(sites.cli("rotate", cluster, "--region", REGION))
    assert rotated["key_version"] not in ("", made["key_version"])
    blobs.append(client.wrap(cluster, REGION, SECRET).wrapped_key)

    moved = region_of(sites.cli("rotate", cluster, "--file", sites.file(second)))
    assert moved["key_spec"]["uri"] == second.uri
    there.disable(first)
    assert_refused(client, first)
    blobs.append(client.wrap(cluster, REGION, SECRET).wrapped_key)
    for blob in blobs:
        assert client.unwrap(cluster, blob).plaintext == SECRET
    status = region_of(sites.cli("status", cluster))
    assert (status["state"], status["health"]) == ("STATE_ENABLED", "HEALTH_HEALTHY")
    assert status["key_version"] == moved["key_version"]
    told = f'provider="{first.type}",region="{LOCATIONS.get(provider, "")}"'
    assert f'operation="unwrap",outcome="OK",{told}' in metrics(sites.server)


@each_provider
def test_a_disabled_key_stops_service_until_it_is_enabled(
    sites: Sites, client: keyfold.Client, provider: str
) -> None:
    """A refusal says why, in the status too, and ends by itself once the key is enabled."""
    there = sites[provider].there
    key = there.create_key()
    cluster, blob = enabled(client, key)
    there.disable(key)
    with pytest.raises(keyfold.KeyDisabledError):
        client.unwrap(cluster, blob)
    with pytest.raises(keyfold.KeyDisabledError):
        client.wrap(cluster, REGION, SECRET)
    (region,) = client.get_status(cluster).regions
    assert region.health is keyfold.Health.KEY_DISABLED
    assert region.state is keyfold.State.ENABLED
    assert region.can_unwrap is False
    assert region.last_error is not None
    assert region.last_error.reason == "KEY_DISABLED"

    there.enable(key)
    ends = time.monotonic() + REMEMBERED + SLACK
    while not opens(client, cluster, blob):
        assert time.monotonic() < ends
        time.sleep(0.05)
    # One call had to find out; from here on all calls are served.
    assert client.wrap(cluster, REGION, SECRET).wrapped_key
    (region,) = client.get_status(cluster).regions
    assert region.health is keyfold.Health.HEALTHY


@each_provider
def test_a_key_can_be_tried(sites: Sites, client: keyfold.Client, provider: str) -> None:
    """TestKey passes for a good key, and says of a missing one that it is not there."""
    there = sites[provider].there
    key, missing = there.create_key(), there.missing_key()
    who = ("--principal", key.principal) if key.principal else ()
    tried = sites.cli("test-key", key.type, key.uri, *who, "--organization", ORGANIZATION)
    assert tried["accessible"] is True
    outcomes = {step["step"]: step["outcome"] for step in tried["steps"]}
    assert outcomes["TEST_STEP_WRAP"] == outcomes["TEST_STEP_UNWRAP"] == "TEST_OUTCOME_PASSED"
    answer = client.test_key(spec_of(missing), organization=ORGANIZATION)
    assert not answer.accessible
    assert "KEY_NOT_FOUND" in {step.reason for step in answer.steps}


def test_a_region_takes_the_replica_of_anothers_key(sites: Sites, client: keyfold.Client) -> None:
    """A multi-Region key's replica is found by its region and proven; a missing one is named."""
    there = sites["aws"].there
    assert isinstance(there, AwsCounterpart)
    key = there.create_key(MultiRegion=True)
    replica = there.replicate(key, "us-east-1")
    cluster, _ = enabled(client, key)
    more = sites.cli("add-regions", cluster, "--region", "us-east-1", "--replica-of", REGION)
    added = {region["region"]: region for region in more["status"]["regions"]}["us-east-1"]
    assert added["key_spec"]["uri"] == replica.uri
    assert added["key_region"] == "us-east-1"
    blob = client.wrap(cluster, "us-east-1", SECRET).wrapped_key
    there.disable(key)
    assert client.unwrap(cluster, blob).plaintext == SECRET

    there.enable(key)
    missing = keyfold.RegionSpec("ap-south-1", replica_of=REGION)
    with pytest.raises(keyfold.KeyNotFoundError, match=r"there is no replica of region eu's key"):
        client.add_regions(cluster, [missing])
    single = next(names)
    specs = [keyfold.RegionSpec(REGION, spec_of(there.create_key())), missing]
    with pytest.raises(keyfold.InvalidKeySpecError, match="multi-Region"):
        client.enable(single, specs, organization=ORGANIZATION)


def test_a_pinned_version_does_not_rotate_by_itself(sites: Sites, client: keyfold.Client) -> None:
    """Rotating to the same uri is refused where it names a version; the bare uri is not."""
    there = sites["azure"].there
    assert isinstance(there, AzureCounterpart)
    bare = there.create_key()
    version = there.azure.versions(there.there(bare))[-1].rpartition("/")[2]
    pinned = RootKey(bare.type, f"{bare.uri}/{version}", bare.principal)
    cluster, blob = enabled(client, pinned)
    there.new_version(bare)
    assert "KEY_VERSION_PINNED" in sites.server.cli("rotate", cluster, "--region", REGION, code=4)
    with pytest.raises(keyfold.KeyVersionPinnedError):
        move(client, cluster, pinned)
    move(client, cluster, bare)
    there.disable(bare, version)
    assert client.unwrap(cluster, blob).plaintext == SECRET
    (region,) = client.get_status(cluster).regions
    assert region.key_version != version


@pytest.mark.parametrize(
    ("before", "after"),
    [pytest.param(*pair, id="-to-".join(pair)) for pair in itertools.permutations(EVERY, 2)],
)
def test_moving_to_another_provider(
    sites: Sites, client: keyfold.Client, before: str, after: str
) -> None:
    """A cluster moves from any provider to any other; then the old key is not needed (S5)."""
    left, found = sites[before].there, sites[after].there
    old, new = left.create_key(), found.create_key()
    cluster, blob = enabled(client, old)
    move(client, cluster, new)
    left.disable(old)
    assert_refused(client, old)
    assert client.unwrap(cluster, blob).plaintext == SECRET
    newer = client.wrap(cluster, REGION, SECRET).wrapped_key
    assert client.unwrap(cluster, newer).plaintext == SECRET
    found.disable(new)
    with pytest.raises(keyfold.KeyDisabledError):
        client.unwrap(cluster, blob)


@pytest.mark.parametrize("provider", CLOUDS)
def test_the_live_checks_run_on_a_service(
    sites: Sites, client: keyfold.Client, provider: str
) -> None:
    """`contract.live` passes on a service that it knows by the standard environment alone."""
    site = sites[provider]
    keys = [site.there.create_key() for _ in range(2)]
    done = live(
        **sites.settings,
        PROVIDER=provider,
        KEY=keys[0].uri,
        KEY2=keys[1].uri,
        PRINCIPAL=keys[0].principal,
        EXTERNAL_ID=client.get_access_policy(
            spec_of(keys[0]), organization=ORGANIZATION
        ).external_id,
    )
    assert done.returncode == 0, done.stdout
    assert "test_a_disabled_key_refuses_until_it_is_enabled" in done.stdout
    assert "Nothing was made or changed in the account" in done.stdout
    assert ("Look the price up" in done.stdout) is (provider != "vault")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give PROVIDER=aws|azure|gcp|vault and KEY=URI"),
        ({"PROVIDER": "aws"}, "KEY=URI"),
        ({"PROVIDER": "aws", "KEY": "alias/customer"}, "alias"),
    ],
)
def test_the_live_checks_say_what_to_give(given: dict[str, str], said: str) -> None:
    """Without a provider and a key that can exist, the live checks end at once with code 2."""
    done = live(**given)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
