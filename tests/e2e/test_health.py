"""A real server tells the good days of each provider's key from the bad ones.

One server has all providers. A story runs at all of them at once, since most of it is waiting,
and each provider's test then gets the result for its provider. Times are this machine's monotonic
clock, read before each call: no call that begins past a bound may be served.
"""

from __future__ import annotations

import itertools
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

import keyfold
from contract import aws_kms, azure_key_vault, gcp_kms, vault_transit
from contract.counterparts import Ability, Counterpart, Deviation, NotInstalledError, Row, without
from contract.vault_transit import VaultCounterpart
from e2e.conftest import StartServer
from e2e.provider_sites import CLOUDS, ORGANIZATION, Site, opened, settings, spec_of
from e2e.server import Server
from keyfold_server.domain.keyspec import RootKey
from lateness import in_time

pytestmark = pytest.mark.timeout(180)

REGION: Final = "eu"
SECRET: Final = b"a data encryption key of somebody"

TTL: Final = 2.0
"""Seconds for which one answer of a KMS holds."""

GRACE: Final = 2.0
"""Seconds of the shorter grace; the longer one is the default, which no story outlives."""

REMEMBERED: Final = 5.0
"""Seconds for which a refusal is remembered, and the longest pause in an outage."""

BUDGET: Final = 5.0
"""Seconds that one call to a KMS may take."""

SLACK: Final = 8.0
"""Seconds that a busy machine may take besides."""

ASKING: Final = 2.0
"""Seconds that a status may wait for the KMS before it shows what is known."""

PAUSE: Final = 0.05
"""Seconds between two checks."""

CODES: Final = {
    "UNREACHABLE": "UNAVAILABLE",
    "CREDENTIALS_FAILED": "UNAVAILABLE",
    "THROTTLED": "RESOURCE_EXHAUSTED",
}
"""The reasons for which a KMS could not tell, and their codes."""

CLOSED: Final = {
    "aws": Ability.TLS_FAILURE,
    "azure": "firewall",
    "gcp": Ability.TLS_FAILURE,
    "vault": "sealed",
}
"""The fault at each provider that must not be taken for a refusal of the key."""

ROWS: Final = {
    "aws": aws_kms.ROW,
    "azure": azure_key_vault.ROW,
    "gcp": gcp_kms.ROW,
    "vault": vault_transit.ROW,
}

UNWRAP: Final = {
    "aws": r"kms:Decrypt",
    "azure": r"Microsoft\.KeyVault/vaults/keys/unwrap/action",
    "gcp": r"cloudkms\.cryptoKeyVersions\.useToDecrypt",
    "vault": r"update transit-\w+/decrypt/key-\d+",
}
"""The permission to unwrap, as each provider names it."""

each_provider = pytest.mark.parametrize("provider", CLOUDS)
numbers = itertools.count(1)


class Customer:
    """A cluster under a root key, whose key and status a test uses."""

    def __init__(self, client: keyfold.Client, key: RootKey, grace: float | None = None) -> None:
        """Enables it and wraps a key, so that its KEK is in memory.

        Args:
            client: A client of the server.
            key: The root key.
            grace: Seconds that the key serves beyond its TTL in an outage; None for the default.
        """
        self._client = client
        self.key = key
        self.cluster = f"cluster-{next(numbers)}"
        policy = None if grace is None else keyfold.RegionPolicy(None, timedelta(seconds=grace))
        specs = [keyfold.RegionSpec(REGION, spec_of(key), policy)]
        client.enable(self.cluster, specs, organization=ORGANIZATION)
        self._blob = client.wrap(self.cluster, REGION, SECRET).wrapped_key

    def use(self) -> keyfold.KeyfoldError | None:
        """Uses the key once; returns the error, or None if the call was served."""
        try:
            assert self._client.unwrap(self.cluster, self._blob).plaintext == SECRET
        except keyfold.KeyfoldError as error:
            return error
        return None

    @property
    def served(self) -> bool:
        """Whether the server serves a call now."""
        return self.use() is None

    @property
    def seen(self) -> keyfold.RegionStatus:
        """The status of the cluster's region; the server may call the KMS for it."""
        (region,) = self._client.get_status(self.cluster, timeout=ASKING).regions
        return region

    def used_until_stopped(self, since: float, lasts: float) -> keyfold.KeyfoldError:
        """Uses the key until a call fails; returns the error.

        Args:
            since: The moment at which the KMS began to answer differently.
            lasts: Seconds for which the last proof before that may count: the hard bound.
        """
        while True:
            began = time.monotonic()
            error = self.use()
            if error is not None:
                assert time.monotonic() < since + lasts + BUDGET + SLACK, f"stopped late: {error!r}"
                return error
            assert began < since + lasts, "served past the bound"
            time.sleep(PAUSE)


def await_(there: Callable[[], object], within: float) -> None:
    """Waits until a condition holds, for so many seconds at most."""
    ends = time.monotonic() + within
    while not there():
        assert time.monotonic() < ends
        time.sleep(PAUSE)


def await_service(*customers: Customer) -> None:
    """Waits until all keys are served, within the rule's bound, and their status is healthy.

    A key that was served on grace is healthy after the server's next call to the KMS.
    """
    ends = time.monotonic() + REMEMBERED + BUDGET + SLACK
    for each in customers:
        while (error := each.use()) is not None:
            assert time.monotonic() < ends, f"not served again: {error!r}"
            time.sleep(PAUSE)
    for each in customers:
        while (seen := each.seen).health is not keyfold.Health.HEALTHY:
            assert time.monotonic() < ends, f"still seen as {seen.health}"
            assert each.served
            time.sleep(PAUSE)
        assert seen.last_error is None


def until_stopped(since: float, lasts: dict[Customer, float]) -> list[keyfold.KeyfoldError]:
    """Uses several keys at the same time, each until a call fails."""
    with ThreadPoolExecutor(len(lasts)) as pool:
        return list(pool.map(lambda one: one[0].used_until_stopped(since, one[1]), lasts.items()))


def assert_refused(error: keyfold.KeyfoldError, customer: Customer, reason: str) -> None:
    """Asserts that a call was refused by the customer's KMS, and that the status says so, too."""
    assert isinstance(error, keyfold.RefusedError)
    assert (error.reason, error.code, error.source) == (reason, "FAILED_PRECONDITION", "kms")
    assert (error.cluster, error.region) == (customer.cluster, REGION)
    seen = customer.seen
    assert (seen.state, seen.health) == (keyfold.State.ENABLED, reason)
    assert seen.can_unwrap is False
    assert seen.last_error is not None
    assert seen.last_error.reason == reason
    assert seen.last_success_time is not None
    assert seen.health_time is not None
    assert seen.health_time >= seen.last_success_time


def assert_not_told(seen: keyfold.RegionStatus, reason: str) -> None:
    """Asserts that a status shows why the KMS could not tell, and no refusal of the key."""
    assert (seen.state, seen.health) == (keyfold.State.ENABLED, reason)
    assert seen.can_unwrap is not False
    assert seen.last_error is not None
    assert seen.last_error.reason == reason
    assert seen.last_success_time is not None


@dataclass(frozen=True)
class Place:
    """One provider in a story.

    Attributes:
        name: The site's name.
        there: Its counterpart.
        row: The provider's row in the contract's table.
        client: A client of the server.
        server: The server, which the other providers' stories use at the same time.
    """

    name: str
    there: Counterpart
    row: Row
    client: keyfold.Client
    server: Server

    def customer(self, grace: float | None = None) -> Customer:
        """Makes a cluster under a root key of its own."""
        return Customer(self.client, self.there.create_key(), grace)


Story = Callable[..., None]


class Places:
    """All available providers, and the stories that ran at them."""

    def __init__(
        self, sites: dict[str, Site | NotInstalledError], server: Server, client: keyfold.Client
    ) -> None:
        self._sites = sites
        self._server = server
        self._client = client
        self._threads = ThreadPoolExecutor(len(sites))
        self._lived: dict[Any, dict[str, Future[None]]] = {}

    def live(self, provider: str, story: Story, *given: str) -> None:
        """Runs a story at all providers, once and alone; raises what it raised at one of them."""
        site = self._sites[provider]
        if isinstance(site, NotInstalledError):
            without(site)
        if (story, given) not in self._lived:
            self._lived[story, given] = {
                name: self._threads.submit(story, self._place(name, each), *given)
                for name, each in self._sites.items()
                if isinstance(each, Site)
            }
            wait(self._lived[story, given].values())
        self._lived[story, given][provider].result()

    def _place(self, name: str, site: Site) -> Place:
        return Place(name, site.there, ROWS[name], self._client, self._server)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, start_module_server: StartServer
) -> Iterator[Places]:
    """Starts the counterparts, and then the server, once for all tests of this file."""
    folder = tmp_path_factory.mktemp("sites")
    with opened(CLOUDS, folder) as found:
        there = [site for site in found.values() if isinstance(site, Site)]
        told = settings(there, folder / "keyfold.toml")
        server = start_module_server(keys=(), ready=True, KEYFOLD_CACHE_TTL=f"{TTL}s", **told)
        with server.client(timeout=2 * BUDGET + SLACK) as client:
            for site in there:
                site.admit(client, organization=ORGANIZATION)
            places = Places(found, server, client)
            yield places
            places.close()
        server.stop()


def taken_away_and_given_back(place: Place) -> None:
    """A customer does each thing that a customer can, and takes it back."""
    there = place.there
    untouched, disabled, denied = (place.customer() for _ in range(3))
    ways = {disabled: "KEY_DISABLED", denied: "ACCESS_DENIED"}
    there.disable(disabled.key)
    there.deny(denied.key, "unwrap")
    leaving = place.customer() if place.row.has(Ability.SCHEDULE_DELETION) else None
    if leaving is not None:
        ways[leaving] = "KEY_PENDING_DELETION"
        there.schedule_deletion(leaving.key)
    errors = until_stopped(time.monotonic(), dict.fromkeys(ways, TTL))
    for error, (customer, reason) in zip(errors, ways.items(), strict=True):
        assert_refused(error, customer, reason)
        if place.row.has(Ability.REQUEST_IDS):
            assert error.metadata["provider_request_id"]
    assert re.fullmatch(UNWRAP[place.name], errors[1].metadata["missing_permission"])
    assert untouched.served

    there.enable(disabled.key)
    there.restore(denied.key, "unwrap")
    if leaving is not None:
        there.cancel_deletion(leaving.key)
        if Deviation.CANCELLED_DELETION_ENABLES not in place.row.deviations:
            steps = place.client.test_key(spec_of(leaving.key), organization=ORGANIZATION).steps
            assert "KEY_DISABLED" in {step.reason for step in steps}
            there.enable(leaving.key)
    await_service(*ways, untouched)


@each_provider
def test_a_customer_takes_the_key_away_and_gives_it_back(places: Places, provider: str) -> None:
    """A key that a customer takes away is refused by its TTL with that reason (F1, F2)."""
    places.live(provider, taken_away_and_given_back)


def trust_withdrawn(place: Place) -> None:
    """A customer no longer lets Keyfold act as its principal, and then lets it again."""
    customer = place.customer()
    with place.there.withdrawn_trust(customer.key):
        error = customer.used_until_stopped(time.monotonic(), TTL)
        assert_refused(error, customer, "ACCESS_DENIED")
    await_service(customer)


@each_provider
def test_withdrawn_trust_is_a_refusal(places: Places, provider: str) -> None:
    """If Keyfold may no longer act as a principal and is itself good, that is a refusal (F2a)."""
    places.live(provider, trust_withdrawn)


def sessions_ended(place: Place) -> None:
    """Keyfold's sessions end; the credential that they came from is good."""
    customer = place.customer(0)
    place.there.expire_sessions()
    ended = datetime.now(UTC)
    ends = time.monotonic() + TTL + BUDGET + SLACK
    seen = customer.seen
    while seen.last_success_time is None or seen.last_success_time < ended:
        assert time.monotonic() < ends
        assert customer.served
        assert seen.health is keyfold.Health.HEALTHY
        time.sleep(PAUSE)
        seen = customer.seen
    assert (seen.health, seen.last_error) == (keyfold.Health.HEALTHY, None)


@each_provider
def test_a_session_that_ends_is_renewed(places: Places, provider: str) -> None:
    """A running server renews tokens and sessions that end; no caller notices (F2a)."""
    places.live(provider, sessions_ended)


def lived_through(
    place: Place,
    fault: AbstractContextManager[None],
    reason: str,
    meanwhile: Callable[[Customer], None] = lambda _: None,
) -> Customer:
    """Uses keys while the KMS cannot tell; returns the customer of `meanwhile`."""
    warm, none, short, another = (place.customer(grace) for grace in (None, 0, GRACE, None))
    with fault:
        since = time.monotonic()
        for error in until_stopped(since, {none: TTL, short: TTL + GRACE}):
            assert (error.reason, error.code, error.source) == (reason, CODES[reason], "kms")
        # The last proof has expired by now, so the key serves on grace.
        assert time.monotonic() > since + TTL
        assert warm.served
        await_(lambda: warm.served and warm.seen.health == reason, BUDGET + SLACK)
        for each in (warm, none, short):
            assert_not_told(each.seen, reason)
        meanwhile(another)
        assert warm.served
    await_service(warm, none, short)
    return another


def own_credential_dead(place: Place) -> None:
    """The provider no longer accepts Keyfold's own credential, nor the sessions from it."""
    if isinstance(place.there, VaultCounterpart):
        # Otherwise Vault locks the role out for a quarter of an hour, after too many attempts.
        at = f"sys/auth/{place.there.login}/tune"
        place.there.server.call("POST", at, user_lockout_config={"lockout_disable": True})

    def meanwhile(_: Customer) -> None:
        with pytest.raises(keyfold.CredentialsFailedError):
            place.customer()
        assert "CREDENTIALS_FAILED" in place.server.log()

    lived_through(place, place.there.broken_credentials(), "CREDENTIALS_FAILED", meanwhile)


@each_provider
def test_keyfolds_own_credential_dies(places: Places, provider: str) -> None:
    """Service goes on within the grace, Keyfold's side is named, and no key is refused (F2a)."""
    places.live(provider, own_credential_dead)


def throttled(place: Place) -> None:
    """The KMS asks to slow down, without saying for how long."""
    lived_through(place, place.there.throttled(None), "THROTTLED")


@each_provider
def test_a_throttle_is_not_a_revocation(places: Places, provider: str) -> None:
    """A KMS that asks to slow down has not refused (F1)."""
    places.live(provider, throttled)


def closed(place: Place) -> None:
    """Something answers, and it is not the customer's refusal."""
    lived_through(place, place.there.outage(CLOSED[place.name]), "UNREACHABLE")


@each_provider
def test_a_closed_network_is_not_a_revocation(places: Places, provider: str) -> None:
    """A sealed Vault, a firewall's denial and a foreign certificate do not refuse a key (F6)."""
    places.live(provider, closed)


def away_and_back(place: Place, way: str) -> None:
    """The KMS is gone, and an operator cannot wait for it."""

    def meanwhile(customer: Customer) -> None:
        await_(lambda: keks_in_grace(place.server) > 0, SLACK)
        revoked(place.client, customer)

    down = way in place.row.outages
    fault = place.there.outage(way) if down else place.there.hanging(way)
    restored(place.client, lived_through(place, fault, "UNREACHABLE", meanwhile))


def keks_in_grace(server: Server) -> float:
    """Returns the metric of KEKs that serve although their KMS is unreachable."""
    address = re.search(r"http://127\.0\.0\.1:\d+/metrics", server.log())
    assert address is not None
    with urllib.request.urlopen(address[0], timeout=SLACK) as answer:
        found = re.search(r"^keyfold_keks_in_grace (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def revoked(client: keyfold.Client, customer: Customer) -> None:
    """Revokes a cluster whose KMS is unreachable, and tries to restore it."""
    assert customer.served
    # Keyfold calls no KMS: a call that hangs takes longer than this.
    with in_time(BUDGET):
        answer = client.revoke(customer.cluster, request_id=f"revoke-{customer.cluster}")
        assert isinstance(customer.use(), keyfold.RevokedError)
        assert customer.seen.state is keyfold.State.REVOKED
    assert len(answer.confirmed) == 1
    assert not answer.pending
    (failed,) = client.restore(customer.cluster).not_restored
    assert isinstance(failed.error, keyfold.UnreachableError)
    assert customer.seen.state is keyfold.State.REVOKED
    assert isinstance(customer.use(), keyfold.RevokedError)


def restored(client: keyfold.Client, customer: Customer) -> None:
    """Restores that cluster, and repeats the request that revoked it."""
    assert isinstance(customer.use(), keyfold.RevokedError)
    answer = client.restore(customer.cluster)
    assert (answer.restored, answer.not_restored) == ((REGION,), ())
    assert customer.served
    again = client.revoke(customer.cluster, request_id=f"revoke-{customer.cluster}")
    assert (again.replayed, again.superseded) == (True, True)
    assert again.status.regions[0].state is keyfold.State.ENABLED
    assert customer.served
    client.revoke(customer.cluster)
    assert isinstance(customer.use(), keyfold.RevokedError)


@each_provider
@pytest.mark.parametrize("way", [Ability.REFUSED, Ability.HANG_AT_READ])
def test_an_outage_is_not_a_revocation(places: Places, way: str, provider: str) -> None:
    """Down or hung: warm keys serve for their grace, Revoke works, and all recovers (F1, R1).

    Restore proves the key first, and a repeated Revoke answers from the state as it is (R6, R7).
    """
    places.live(provider, away_and_back, way)
