"""Bad days of each provider's key: what a real server answers, what it keeps, what it loses.

One server has all providers. A story runs at all of them at once, since most of it is waiting,
and each provider's test then gets the result for its provider. Calls go over bare stubs, which
repeat nothing. Times are this machine's monotonic clock.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

import keyfold
from contract import aws_kms, azure_key_vault, gcp_kms, vault_transit
from contract.counterparts import Ability, Counterpart, NotInstalledError, Row, without
from contract.gcp_kms import GcpCounterpart
from contract.gcp_wire import GrpcLayer
from contract.vault_transit import VaultCounterpart
from counterparts.azure_key_vault import VAULT_RESOURCE
from e2e.conftest import SharedStore, StartServer
from e2e.provider_sites import CLOUDS, Site, opened, settings, spec_of
from e2e.server import Server
from e2e.wire import Refusal, refusal, stubs
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.service.loading.announcements import ANNOUNCE_AGAIN

pytestmark = pytest.mark.timeout(180)

REGION: Final = "eu"
ORGANIZATION: Final = "customer"
SECRET: Final = b"a data encryption key of somebody"

TTL: Final = 2.0
"""Seconds for which one answer of a KMS holds."""

REMEMBERED: Final = 5.0
"""Seconds for which a refusal is remembered, and the longest pause in an outage."""

BUDGET: Final = 5.0
"""Seconds that one call to a KMS may take."""

SLACK: Final = 8.0
"""Seconds that a busy machine may take besides."""

PAUSE: Final = 0.05
"""Seconds between two checks."""

REFUSED: Final = frozenset(
    {
        keyfold.Health.ACCESS_DENIED,
        keyfold.Health.KEY_DISABLED,
        keyfold.Health.KEY_PENDING_DELETION,
        keyfold.Health.KEY_NOT_FOUND,
        keyfold.Health.KEY_INVALID,
        keyfold.Health.KEK_MISMATCH,
    }
)
"""The health, in a status, of a key that its owner took away."""

ROWS: Final = {
    "aws": aws_kms.ROW,
    "azure": azure_key_vault.ROW,
    "gcp": gcp_kms.ROW,
    "vault": vault_transit.ROW,
}

MISSING: Final = {
    "aws": {"wrap": r"kms:Encrypt", "unwrap": r"kms:Decrypt"},
    "azure": {
        "wrap": r"Microsoft\.KeyVault/vaults/keys/wrap/action",
        "unwrap": r"Microsoft\.KeyVault/vaults/keys/unwrap/action",
    },
    "gcp": {
        "wrap": r"cloudkms\.cryptoKeyVersions\.useToEncrypt",
        "unwrap": r"cloudkms\.cryptoKeyVersions\.useToDecrypt",
    },
    "vault": {
        "wrap": r"update transit-\w+/encrypt/key-\d+",
        "unwrap": r"update transit-\w+/decrypt/key-\d+",
    },
}
"""The missing permission, as each provider names it."""

UNUSABLE: Final = {
    "aws": "is not a symmetric encryption key|use a symmetric encryption key",
    "azure": "does not permit",
    "gcp": "is not a symmetric encryption key",
    "vault": "use a key of type aes256-gcm96",
}
"""The error's text for a key that was made for something else."""

WRONG: Final = "to something else|to what it wrapped|has just wrapped"
"""The error's text for a key that opens to something else: the provider's, or Keyfold's."""

each_provider = pytest.mark.parametrize("provider", CLOUDS)
numbers = itertools.count(1)

Stub = service.KeyManagementServiceStub


class Customer:
    """A cluster under a root key, used over a stub."""

    def __init__(self, place: Place, key: RootKey, grace: float | None = None) -> None:
        """Enables it and wraps a key, so that its KEK is in memory.

        Args:
            place: The provider.
            key: The root key.
            grace: Seconds that the key serves beyond its TTL in an outage; None for the default.
        """
        self._place = place
        self.key = key
        self.cluster = f"cluster-{next(numbers)}"
        enable(place.client, self.cluster, key, grace)
        asked = pb.WrapRequest(cluster=self.cluster, region=REGION, plaintext=SECRET)
        self._blob = place.stub.Wrap(asked, timeout=BUDGET + SLACK).wrapped_key

    def use(self, within: float = BUDGET + SLACK) -> Refusal | None:
        """Uses the key once; returns the refusal, or None if the call was served."""
        return used(self._place.stub, self.cluster, self._blob, within)

    @property
    def seen(self) -> keyfold.RegionStatus:
        """The status of the cluster's region."""
        (region,) = self._place.client.get_status(self.cluster).regions
        return region

    def until(self, reason: str) -> Refusal:
        """Uses the key until a call is refused; returns the refusal."""
        ends = time.monotonic() + TTL + BUDGET + SLACK
        while (found := self.use()) is None:
            assert time.monotonic() < ends
            time.sleep(PAUSE)
        assert found.reason == reason, found
        return found

    def recovers(self) -> None:
        """Waits until the key is served, within the rule's bound, and its status is healthy."""
        ends = time.monotonic() + REMEMBERED + BUDGET + SLACK
        while (found := self.use()) is not None:
            assert time.monotonic() < ends, found
            time.sleep(PAUSE)
        while (seen := self.seen).health is not keyfold.Health.HEALTHY:
            assert time.monotonic() < ends, seen
            assert self.use() is None
            time.sleep(PAUSE)


def spec(key: RootKey, grace: float | None = None) -> keyfold.RegionSpec:
    """Returns the region's spec under a root key."""
    policy = None if grace is None else keyfold.RegionPolicy(None, timedelta(seconds=grace))
    return keyfold.RegionSpec(REGION, spec_of(key), policy)


def enable(client: keyfold.Client, cluster: str, key: RootKey, grace: float | None = None) -> None:
    """Enables a cluster of the organization."""
    client.enable(cluster, [spec(key, grace)], organization=ORGANIZATION)


def there(counterpart: Counterpart) -> Any:
    """Returns a counterpart without its type: only those of networks have a `layer`."""
    return counterpart


def used(stub: Stub, cluster: str, blob: bytes, within: float) -> Refusal | None:
    """Opens a wrapped key; returns the refusal, or None if the call was served."""
    asked = pb.UnwrapRequest(cluster=cluster, wrapped_key=blob)
    try:
        assert stub.Unwrap(asked, timeout=within).plaintext == SECRET
    except grpc.RpcError as error:
        return refusal(error)
    return None


@dataclass(frozen=True)
class Place:
    """One provider in a story.

    Attributes:
        name: The site's name.
        there: Its counterpart.
        row: The provider's row in the contract's table.
        client: A client of the server.
        stub: A connection to it.
        server: The server, which the other providers' stories use at the same time.
    """

    name: str
    there: Counterpart
    row: Row
    client: keyfold.Client
    stub: Stub
    server: Server

    def customer(self, grace: float | None = None) -> Customer:
        """Makes a cluster under a root key of its own."""
        return Customer(self, self.there.create_key(), grace)


Story = Callable[[Place], None]


class Places:
    """All available providers, and the stories that ran at them."""

    def __init__(
        self, sites: dict[str, Site | NotInstalledError], server: Server, stack: ExitStack
    ) -> None:
        self.server = server
        self.sites = sites
        self.client = stack.enter_context(server.client(timeout=2 * BUDGET + SLACK))
        self.stub = stack.enter_context(stubs(server.target))
        self.issued: list[str] = []
        self.trust(self.client)
        self._threads = stack.enter_context(ThreadPoolExecutor(len(sites)))
        self._lived: dict[Any, dict[str, Future[None]]] = {}

    def trust(self, client: keyfold.Client) -> None:
        """Makes the customer's AWS role trust Keyfold by the external id that a server issues."""
        aws = self.sites["aws"]
        if isinstance(aws, Site):
            key = spec_of(aws.there.create_key())
            policy = client.get_access_policy(key, organization=ORGANIZATION)
            self.issued.append(policy.external_id)
            there(aws.there).trust(*self.issued)

    def place(self, name: str) -> Place:
        """Returns a provider's place, or skips the test where its service is not available."""
        site = self.sites[name]
        if isinstance(site, NotInstalledError):
            without(site)
        return Place(name, site.there, ROWS[name], self.client, self.stub, self.server)

    def live(self, provider: str, story: Story) -> None:
        """Runs a story at all providers, once and alone; raises what it raised at one of them."""
        self.place(provider)
        if story not in self._lived:
            there = [name for name, site in self.sites.items() if isinstance(site, Site)]
            self._lived[story] = {
                name: self._threads.submit(story, self.place(name)) for name in there
            }
            wait(self._lived[story].values())
        self._lived[story][provider].result()


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, start_module_server: StartServer
) -> Iterator[Places]:
    """Starts the counterparts, and then the server, once for all tests of this file."""
    folder = tmp_path_factory.mktemp("sites")
    with opened(CLOUDS, folder) as found, ExitStack() as stack:
        there = [site for site in found.values() if isinstance(site, Site)]
        told = settings(there, folder / "keyfold.toml")
        server = start_module_server(keys=("eu",), ready=True, KEYFOLD_CACHE_TTL=f"{TTL}s", **told)
        server.enable("bystander", ["eu"])
        yield Places(found, server, stack)
        server.stop()


def metric(server: Server, pattern: str) -> float:
    """Adds up the values of all metrics whose line begins with a pattern."""
    address = re.search(r"http://127\.0\.0\.1:\d+/metrics", server.log())
    assert address is not None
    with urllib.request.urlopen(address[0], timeout=SLACK) as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE)))


# Keys that cannot be taken


def not_taken(
    place: Place, customer: Customer, key: RootKey, kind: type[keyfold.KeyfoldError]
) -> list[keyfold.KeyfoldError]:
    """Tries to enable a cluster under a key and to rotate one to it; neither stores anything."""
    before, cluster = customer.seen, f"never-{next(numbers)}"
    with pytest.raises(kind) as enabling:
        enable(place.client, cluster, key)
    with pytest.raises(keyfold.ClusterNotFoundError):
        place.client.get_status(cluster)
    with pytest.raises(kind) as rotating:
        place.client.rotate(customer.cluster, [spec(key)])
    after = customer.seen
    assert (after.key_spec, after.key_version) == (before.key_spec, before.key_version)
    assert (after.health, after.can_unwrap) == (keyfold.Health.HEALTHY, True)
    assert customer.use() is None
    tried = place.client.test_key(spec_of(key), organization=ORGANIZATION)
    assert not tried.accessible
    assert tried.summary.startswith("Keyfold cannot use this key")
    for error in (enabling.value, rotating.value):
        assert (error.code, error.source, error.region) == ("FAILED_PRECONDITION", "kms", REGION)
    assert rotating.value.cluster == customer.cluster
    return [enabling.value, rotating.value]


def half_allowed(place: Place) -> None:
    """Tries keys that lack a half of their policy, or both."""
    customer = place.customer()
    for denied in (("unwrap",), ("wrap",), ("wrap", "unwrap", "describe")):
        key = place.there.create_key()
        for permission in denied:
            place.there.deny(key, permission)
        missing = "wrap" if "wrap" in denied else "unwrap"
        for error in not_taken(place, customer, key, keyfold.AccessDeniedError):
            assert re.fullmatch(MISSING[place.name][missing], error.metadata["missing_permission"])
        tried = place.client.test_key(spec_of(key), organization=ORGANIZATION)
        failed = [step.step for step in tried.steps if step.outcome == "FAILED"]
        assert [step for step in failed if step.endswith("WRAP")] == [missing.upper()]
        for permission in denied:
            place.there.restore(key, permission)
        # The policy was the only cause: no refusal is remembered.
        enable(place.client, f"cluster-{next(numbers)}", key)


@each_provider
def test_a_key_that_half_works_is_not_taken(places: Places, provider: str) -> None:
    """Encrypt alone, decrypt alone or neither is not enough: the missing right is named (F5)."""
    places.live(provider, half_allowed)


def made_for_something_else(place: Place) -> None:
    """Tries keys that are asymmetric, of the wrong usage, or without their material."""
    customer = place.customer()
    for why in (Ability.WRONG_PURPOSE, Ability.MATERIAL_MISSING):
        if place.row.has(why):
            key = place.there.unusable_key(why)
            said = UNUSABLE[place.name] if why is Ability.WRONG_PURPOSE else "no key material"
            for error in not_taken(place, customer, key, keyfold.KeyInvalidError):
                assert re.search(said, str(error)), error


@each_provider
def test_a_key_made_for_something_else_is_not_taken(places: Places, provider: str) -> None:
    """KEY_INVALID says what is wrong with it; nothing is stored, nothing lost."""
    places.live(provider, made_for_something_else)


# Answers that are somebody else's


def somebody_elses_plaintext(place: Place) -> None:
    """The KMS answers with success, and with bytes that were never wrapped."""
    key = place.there.create_key()
    customer = Customer(place, key, 0)
    with place.there.wrong_plaintext(key):
        found = customer.until("KEK_MISMATCH")
        assert found.code is grpc.StatusCode.DATA_LOSS
        assert customer.seen.health is keyfold.Health.KEK_MISMATCH
        with pytest.raises(keyfold.KeyfoldError):
            place.client.rotate(customer.cluster, [keyfold.RegionSpec(REGION)])
        cluster = f"never-{next(numbers)}"
        with pytest.raises(keyfold.KeyfoldError, match=WRONG):
            enable(place.client, cluster, key)
        with pytest.raises(keyfold.ClusterNotFoundError):
            place.client.get_status(cluster)
    customer.recovers()


@each_provider
def test_somebody_elses_plaintext_is_no_key(places: Places, provider: str) -> None:
    """A foreign plaintext never becomes a KEK: it is KEK_MISMATCH, and leaves no trace (C5, F4)."""
    places.live(provider, somebody_elses_plaintext)


# A KMS that flaps, and one that drips


def flapping(place: Place) -> None:
    """The network to the KMS comes and goes every second."""
    layer = there(place.there).layer
    warm, none = place.customer(), place.customer(0)
    for _ in range(4):
        with layer.refusing():
            for _ in range(5):
                assert warm.use() is None
                found = none.use()
                assert found is None or found.reason == "UNREACHABLE", found
                time.sleep(0.2)
        for _ in range(5):
            assert warm.use() is None
            found = none.use()
            assert found is None or found.reason == "UNREACHABLE", found
            time.sleep(0.2)
    warm.recovers()
    none.recovers()


@each_provider
def test_a_kms_that_flaps_every_second(places: Places, provider: str) -> None:
    """Warm keys serve throughout, each call on a cold key gets an answer, all recover (F1)."""
    places.live(provider, flapping)


def dripping(place: Place) -> None:
    """The KMS answers a byte each second: no single read waits for long."""
    layer = there(place.there).layer
    warm, none = place.customer(), place.customer(0)
    with layer.dripping(1.0):
        time.sleep(TTL)
        with ThreadPoolExecutor(8) as pool:
            began = time.monotonic()
            cold = [pool.submit(none.use) for _ in range(7)]
            while not all(each.done() for each in cold):
                assert warm.use() is None
                place.stub.Wrap(
                    pb.WrapRequest(cluster="bystander", region="eu", plaintext=SECRET),
                    timeout=BUDGET,
                )
                time.sleep(PAUSE)
            for each in cold:
                found = each.result()
                assert found is not None
                assert found.reason == "UNREACHABLE", found
            assert time.monotonic() - began < BUDGET + SLACK
        assert warm.seen.health is keyfold.Health.UNREACHABLE
        assert warm.use() is None
    warm.recovers()
    none.recovers()


@each_provider
def test_a_kms_that_answers_one_byte_a_second(places: Places, provider: str) -> None:
    """A call takes no longer than its budget, and delays nobody else's key (C4, W2)."""
    places.live(provider, dripping)


# Keyfold's own credential


def refused(status: keyfold.ClusterStatus) -> bool:
    """Says whether a status shows a key as taken away."""
    return any(region.health in REFUSED for region in status.regions)


def own_credential_dead(place: Place) -> None:
    """The provider no longer accepts Keyfold's own credential; all customers' keys are checked."""
    if isinstance(place.there, VaultCounterpart):
        # Otherwise Vault locks the role out for a quarter of an hour, after too many attempts.
        at = f"sys/auth/{place.there.login}/tune"
        place.there.server.call("POST", at, user_lockout_config={"lockout_disable": True})
    customers = [place.customer() for _ in range(3)]
    provider = customers[0].key.type
    outcome = rf'outcome="CREDENTIALS_FAILED",provider="{provider}"'
    calls = rf"keyfold_kms_call_duration_seconds_count{{[^}}]*{outcome}[^}}]*}}"
    before = metric(place.server, calls)
    # Keys that an earlier story took away, and that nobody used since, do not count.
    others = {status.cluster for status in place.client.list_clusters() if not refused(status)}
    with place.there.broken_credentials():
        ends = time.monotonic() + TTL + BUDGET + SLACK
        while {each.seen.health for each in customers} != {keyfold.Health.CREDENTIALS_FAILED}:
            assert time.monotonic() < ends
            for each in customers:
                assert each.use() is None
            for status in place.client.list_clusters():
                assert status.cluster not in others or not refused(status), status
            time.sleep(PAUSE)
        assert metric(place.server, calls) > before
        told = [line for line in place.server.log().splitlines() if customers[0].key.uri in line]
        alarms = [line for line in told if "CREDENTIALS_FAILED" in line and "ERROR" in line.upper()]
        assert alarms, told
        for each in customers:
            assert each.use() is None
            assert each.seen.state is keyfold.State.ENABLED
            assert each.seen.can_unwrap is not False
    for each in customers:
        each.recovers()


@each_provider
def test_our_own_dead_credential_revokes_nobody(places: Places, provider: str) -> None:
    """All keys serve on, log and metric name Keyfold's side, no region is refused (F2a)."""
    places.live(provider, own_credential_dead)


# Names that do not resolve


GONE: Final = "https://kms.keyfold.invalid:8200"
"""An origin whose name never resolves."""


@pytest.fixture(scope="module")
def nameless(
    places: Places, tmp_path_factory: pytest.TempPathFactory, start_module_server: StartServer
) -> Iterator[keyfold.Client]:
    """A client of a server that knows each provider's service by a name that does not exist."""
    sites = [moved(site) for site in places.sites.values() if isinstance(site, Site)]
    told = settings(sites, tmp_path_factory.mktemp("nameless") / "keyfold.toml")
    server = start_module_server(keys=(), ready=True, AWS_ENDPOINT_URL_KMS=GONE, **told)
    with server.client(timeout=BUDGET + SLACK) as client:
        places.trust(client)
        yield client


def moved(site: Site) -> Site:
    """Returns a site whose service has that name; its source of credentials stays."""
    tables, layer = site.tables, there(site.there).layer
    match site.name:
        case "azure":
            # The site's tables end with the audiences of vaults.
            return replace(
                site,
                endpoints=(*site.endpoints, GONE),
                tables=f'{tables}"{GONE}" = "{VAULT_RESOURCE}"\n',
            )
        case "gcp":
            name = GONE.removeprefix("https://")
            return replace(site, tables=tables.replace(f"127.0.0.1:{layer.port}", name))
    return replace(site, tables=tables.replace(layer.url, GONE))


@each_provider
def test_a_name_that_does_not_resolve_tells_nothing(
    places: Places, nameless: keyfold.Client, provider: str
) -> None:
    """F6: UNREACHABLE, which says that the name does not resolve; nothing is stored."""
    place = places.place(provider)
    key = place.there.create_key()
    key = replace(key, uri=key.uri.replace(there(place.there).layer.url, GONE))
    with pytest.raises(keyfold.UnreachableError, match="does not resolve"):
        enable(nameless, "never", key)
    with pytest.raises(keyfold.ClusterNotFoundError):
        nameless.get_status("never")
    steps = {
        step.step: step for step in nameless.test_key(spec_of(key), organization=ORGANIZATION).steps
    }
    assert steps["WRAP"].reason == "UNREACHABLE"
    assert REFUSED.isdisjoint(step.reason for step in steps.values())


# What only AWS has


def bring_material(place: Place, key: RootKey, material: bytes) -> None:
    """Imports a key's material."""
    kms = there(place.there)._customer
    how = {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
    given = kms.get_parameters_for_import(KeyId=key.uri, **how)
    public = load_der_public_key(given["PublicKey"])
    assert isinstance(public, RSAPublicKey)
    kms.import_key_material(
        KeyId=key.uri,
        ImportToken=given["ImportToken"],
        EncryptedKeyMaterial=public.encrypt(material, OAEP(MGF1(SHA256()), SHA256(), None)),
        ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
    )


def test_imported_material_that_expires_in_service(places: Places) -> None:
    """AWS erases it: KEY_INVALID says so, and the same material, imported again, brings it back.

    Expiry and the customer's own deletion of it leave the same state, PendingImport.
    """
    place = places.place("aws")
    key, material = there(place.there).create_key(Origin="EXTERNAL"), secrets.token_bytes(32)
    bring_material(place, key, material)
    customer = Customer(place, key)
    there(place.there)._customer.delete_imported_key_material(KeyId=key.uri)
    found = customer.until("KEY_INVALID")
    assert "no key material: the imported material was deleted or has expired" in found.message
    assert customer.seen.health is keyfold.Health.KEY_INVALID
    bring_material(place, key, material)
    customer.recovers()


# Two replicas


class Pair(NamedTuple):
    """Two servers over one store, each with its own way to the KMS.

    Attributes:
        near: A stub of the one that always reaches the KMS.
        far: A stub of the other one.
        way: The far one's way.
        gcp: The KMS.
        key: The root key.
        cluster: The cluster under it.
        blob: A wrapped key of the cluster.
    """

    near: Stub
    far: Stub
    way: GrpcLayer
    gcp: GcpCounterpart
    key: RootKey
    cluster: str
    blob: bytes

    def refused(self, stub: Stub) -> Refusal | None:
        """Uses the key once; returns the refusal, or None if the call was served."""
        return used(stub, self.cluster, self.blob, BUDGET + SLACK)

    def wait(self, stub: Stub, bound: float, *, served: bool) -> Refusal | None:
        """Uses the key until that is refused, or served; fails after `bound` seconds."""
        began = time.monotonic()
        while ((found := self.refused(stub)) is None) is not served:
            assert time.monotonic() < began + bound, found
            time.sleep(PAUSE)
        return found

    def check_cut_off(self) -> None:
        """Checks that the far one goes on refusing: it cannot reach the KMS and says so."""
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            found = self.refused(self.far)
            assert found is not None
            assert found.reason == "UNREACHABLE", found


@pytest.fixture
def pair(
    places: Places,
    shared_store: SharedStore,
    tmp_path: Path,
    start_server: StartServer,
) -> Iterator[Pair]:
    """Gives two servers on one PostgreSQL, which both use a key."""
    place = places.place("gcp")
    site, gcp = places.sites["gcp"], place.there
    assert isinstance(site, Site)
    assert isinstance(gcp, GcpCounterpart)
    key = gcp.create_key()
    with GrpcLayer(int(gcp.kms.target.rpartition(":")[2])) as way, ExitStack() as stack:
        own = site.tables.replace(f"127.0.0.1:{gcp.layer.port}", f"127.0.0.1:{way.port}")
        targets = []
        for name, each in (("near", site), ("far", replace(site, tables=own))):
            told = settings([each], tmp_path / f"{name}.toml") | {"KEYFOLD_CACHE_TTL": f"{TTL}s"}
            targets.append(shared_store.server(start_server, **told).target)
        near, far = (stack.enter_context(stubs(target)) for target in targets)
        with keyfold.Client(targets[0], timeout=BUDGET + SLACK) as client:
            cluster = f"cluster-{next(numbers)}"
            enable(client, cluster, key)
            blob = client.wrap(cluster, REGION, SECRET).wrapped_key
        made = Pair(near, far, way, gcp, key, cluster, blob)
        for stub in (near, far):
            assert made.refused(stub) is None
        yield made


def test_a_replica_cut_off_from_the_kms_stops_with_the_others(pair: Pair) -> None:
    """F2: blocking one replica's way to the KMS does not keep a disabled key alive there.

    The one that is cut off serves on grace. Once the KMS refuses the disabled key to the other one,
    both stop. The one that is cut off does not serve again before it reaches the KMS.
    """
    with pair.way.hanging_at_read():
        ends = time.monotonic() + TTL
        while time.monotonic() < ends + 1:
            for stub in (pair.near, pair.far):
                assert pair.refused(stub) is None
            time.sleep(PAUSE)
        # The far replica's last proof has expired by now, so it serves on grace.
        pair.gcp.disable(pair.key)
        bound = TTL + BUDGET + SLACK
        found = pair.wait(pair.near, bound, served=False)
        assert found is not None
        assert found.reason == "KEY_DISABLED"
        pair.wait(pair.far, bound, served=False)
        pair.check_cut_off()
        assert pair.refused(pair.near) is not None


def test_a_key_disabled_again_stops_a_replica_that_was_cut_off_meanwhile(pair: Pair) -> None:
    """F2b: disabled, told, enabled, disabled again: the second "no" reaches the other one, too.

    The near replica does not use the key while it is enabled, so its second refusal is a repeated
    one. It tells that at most `ANNOUNCE_AGAIN` after the first one.
    """
    bound = REMEMBERED + TTL + BUDGET + SLACK
    pair.gcp.disable(pair.key)
    for stub in (pair.near, pair.far):
        pair.wait(stub, bound, served=False)
    pair.gcp.enable(pair.key)
    pair.wait(pair.far, bound, served=True)
    with pair.way.hanging_at_read():
        assert pair.refused(pair.far) is None
        pair.gcp.disable(pair.key)
        assert pair.refused(pair.near) is not None
        began = time.monotonic()
        while pair.refused(pair.far) is None:
            assert time.monotonic() < began + REMEMBERED + ANNOUNCE_AGAIN + BUDGET + SLACK
            assert pair.refused(pair.near) is not None
            time.sleep(PAUSE)
        pair.check_cut_off()


# Requests that are repeated


def test_revoke_restore_revoke_repeated_answers_truthfully(places: Places) -> None:
    """R6: a repeated request gets the present state, says what came later, and undoes nothing."""
    client = places.client
    client.enable("repeated", [keyfold.RegionSpec(REGION, keyfold.KeySpec("LOCAL", "local:eu"))])
    blob = client.wrap("repeated", REGION, SECRET).wrapped_key
    # It finds nothing revoked, so it counts as carried out.
    assert not client.restore("repeated", request_id="early").replayed
    first = client.revoke("repeated", request_id="revoke-1")
    assert (first.replayed, first.superseded) == (False, False)
    restored = client.restore("repeated", request_id="restore")
    assert (restored.restored, restored.replayed) == ((REGION,), False)
    client.unwrap("repeated", blob)
    again = client.revoke("repeated", request_id="revoke-1")
    assert (again.replayed, again.superseded) == (True, True)
    assert again.status.regions[0].state is keyfold.State.ENABLED
    client.unwrap("repeated", blob)
    client.revoke("repeated", request_id="revoke-2")
    for request_id in ("restore", "early"):
        late = client.restore("repeated", request_id=request_id)
        assert (late.replayed, late.superseded, late.restored) == (True, True, ())
        assert isinstance(late.not_restored[0].error, keyfold.RevokedError)
        with pytest.raises(keyfold.RevokedError):
            client.unwrap("repeated", blob)
    last = client.revoke("repeated", request_id="revoke-2")
    assert (last.replayed, last.superseded) == (True, False)
    assert last.status.regions[0].state is keyfold.State.REVOKED
