"""Every store knows whose an account, project, vault or origin is, without a race (protocol C9)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import Connection, text

import store_vector
from builders import (
    NOW,
    a_cluster,
    a_region,
    a_request,
    an_event,
    applied,
    enabling,
    record_of,
)
from keyfold_server.domain.changes import (
    Change,
    CommittedChange,
    Decision,
    revoked,
    with_regions,
)
from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.erasure import without
from keyfold_server.domain.errors import (
    KeyfoldError,
    KeyHeldByAnotherError,
    OrganizationNotEmptyError,
    RowNotAuthenticError,
    TooManyHoldersError,
)
from keyfold_server.domain.events import EventQuery
from keyfold_server.domain.holders import MAX_HOLDERS, Claim, Holder
from keyfold_server.domain.key_groups import KeyGroups
from keyfold_server.domain.keyspec import PLATFORM, KeySpec, RootKey
from keyfold_server.domain.log import EntryKind, Floor
from keyfold_server.domain.organization_changes import (
    DecideOrganization,
    OrganizationChange,
    claiming,
    deleted,
    link_created,
    updated,
)
from keyfold_server.domain.organizations import Organization, Settings
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.store.sql.store import SqlStore
from organization_builders import LINKED, a_change, a_link, organized

ACCOUNT = Holder("AWS_KMS", "111122223333")
VAULT = Holder("AZURE_KEY_VAULT", "https://acme.vault.azure.net")
EVERY = EventQuery(None, newest_first=False, limit=1_000)


@pytest.fixture(params=store_vector.KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """A new store."""
    with store_vector.a_place(request.param, tmp_path) as place:
        place.migrate()
        with closing(place.open()) as store:
            yield store


def held_by(region: Region, holder: Holder = ACCOUNT, *, external_id: str = "") -> Region:
    """Returns a region whose key is in a holder."""
    first = region.newest
    root = RootKey(holder.type, "key", external_id=external_id)
    wrap = replace(first.current, root=root, groups=KeyGroups("key", holder.name))
    return replace(region, generations=(replace(first, current=wrap),))


def of_organization(cluster: Cluster) -> Cluster:
    """Returns a cluster whose wraps are bound to its organization."""

    def bound(region: Region) -> Region:
        made = region.newest
        wrap = replace(made.current, organization=cluster.organization)
        return replace(region, generations=(replace(made, current=wrap),))

    return replace(cluster, regions=tuple(map(bound, cluster.regions)))


def enable(
    name: str, organization: str | None, *holders: Holder, key_type: str = "AWS_KMS"
) -> Change:
    """Makes the change that makes a cluster with a key in each holder, and claims them."""
    regions = [
        replace(held_by(a_region(f"r-{n}"), holder), key_spec=KeySpec(key_type, "key"))
        for n, holder in enumerate(holders)
    ]
    cluster = of_organization(a_cluster(name, regions, organization=organization))
    return replace(enabling(cluster), claim=Claim(organization, holders))


def unclaimed(change: Change) -> Change:
    """Returns a change as a release made it that knew no claims."""
    return replace(change, claim=None)


def holding(store: SqlStore, name: str) -> tuple[Holder, ...]:
    """Returns what an organization holds."""
    return store.organization(name).organization.holders


def allow(store: SqlStore, name: str, *holders: Holder) -> Organization:
    """Gives an organization its holders, as an administrator does."""
    decide = updated(lambda s: s, "", NOW, holders=tuple(sorted(holders)))
    return store.change_organization(a_change(decide, organization=name)).organization


def link(
    store: SqlStore, name: str, *holders: Holder, decide: DecideOrganization | None = None
) -> Organization:
    """Links a key in some holders."""
    decide = decide or link_created(a_link(organization=name), NOW)
    event = replace(an_event("rpc:key_link:create"), organization=name)
    change = OrganizationChange(name, claiming(decide, holders, NOW), event, holders=holders)
    return store.change_organization(change).organization


def outcome(store: SqlStore, change: Change) -> CommittedChange | Exception:
    """Applies a change that may be refused."""
    [result] = store.apply([change])
    return result


def edit(store: SqlStore, *statements: str) -> None:
    """Writes the database behind Keyfold's back."""
    database, _ = store.parts

    def work(connection: Connection) -> None:
        for statement in statements:
            assert connection.execute(text(statement)).rowcount > 0, statement

    database.write(work)


def test_the_first_to_prove_a_key_has_the_account(store: SqlStore) -> None:
    """C9: who proves a key somewhere first has the place, and another organization nothing."""
    applied(store, enable("a-1", "acme", ACCOUNT, VAULT))

    refused = outcome(store, enable("b-1", "globex", ACCOUNT))

    assert isinstance(refused, KeyHeldByAnotherError)
    assert "acme" not in refused.message
    assert store.cluster("b-1") is None
    assert (holding(store, "acme"), holding(store, "globex")) == ((ACCOUNT, VAULT), ())
    applied(store, enable("a-2", "acme", VAULT))
    with pytest.raises(KeyHeldByAnotherError):
        link(store, "globex", VAULT)
    assert not store.organization("globex").exists


def test_a_claim_is_an_entry_of_the_log_beside_the_change(store: SqlStore) -> None:
    """S0: the claim says who asked, for whom, and what; it is told once."""
    applied(store, enable("a-1", "acme", ACCOUNT))
    applied(store, enable("a-2", "acme", ACCOUNT))

    entries = store.events(EVERY).events

    assert [(e.action, e.cluster, e.organization) for e in entries] == [
        ("rpc:organization:claim", None, "acme"),
        ("rpc:cluster:enable", "a-1", "acme"),
        ("rpc:cluster:enable", "a-2", "acme"),
    ]
    claim = entries[0]
    assert claim.kind is EntryKind.DECISION
    assert claim.decision == {"holders": {"AWS_KMS:111122223333": True}}
    assert claim.caller == "local"


def test_claim_and_change_are_one_transaction(store: SqlStore) -> None:
    """C9: a change that fails claims nothing, and a claim that fails changes nothing."""
    applied(store, enable("a-1", "acme", ACCOUNT))
    rotated = held_by(a_region("r-9"), VAULT)
    cluster = store.cluster("a-1")
    assert cluster is not None

    stale = replace(cluster, version=cluster.version + 5)
    lost = Change(
        "a-1", with_regions(stale, [rotated], NOW), an_event(), None, claim=Claim("acme", (VAULT,))
    )
    assert isinstance(outcome(store, lost), KeyfoldError)
    assert holding(store, "acme") == (ACCOUNT,)

    request = a_request("b-1")
    both = enable("b-1", "globex", VAULT, ACCOUNT)
    assert isinstance(outcome(store, replace(both, request=request)), KeyHeldByAnotherError)
    assert (holding(store, "globex"), record_of(store, request)) == ((), None)


def test_two_claims_of_one_batch(store: SqlStore) -> None:
    """S8, C9: of two organizations in one batch the first has the account; the other drops out."""
    first, second, third = store.apply(
        [
            enable("a-1", "acme", ACCOUNT),
            enable("b-1", "globex", ACCOUNT, VAULT),
            enable("b-2", "globex", VAULT),
        ]
    )

    assert isinstance(first, CommittedChange)
    assert isinstance(second, KeyHeldByAnotherError)
    assert isinstance(third, CommittedChange)
    assert (holding(store, "acme"), holding(store, "globex")) == ((ACCOUNT,), (VAULT,))


@pytest.mark.parametrize("by", ["cluster", "link", "both"])
def test_two_organizations_race(store: SqlStore, by: str) -> None:
    """C9: of two organizations that claim one account at once, exactly one gets it."""
    for round_ in range(6):
        account = Holder("AWS_KMS", f"{round_:012d}")
        names = [f"acme-{round_}", f"globex-{round_}"]
        start = Barrier(2)

        def claim(
            number: int,
            names: list[str] = names,
            account: Holder = account,
            start: Barrier = start,
        ) -> object:
            name = names[number]
            start.wait(30)
            try:
                if by == "link" or (by == "both" and number):
                    return link(store, name, account)
                made = outcome(store, enable(f"c-{name}", name, account))
            except KeyfoldError as error:
                return error
            else:
                return made

        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(claim, range(2)))

        assert sum(isinstance(each, KeyHeldByAnotherError) for each in done) == 1, done
        assert sum(isinstance(each, CommittedChange | Organization) for each in done) == 1, done
        assert sorted(len(holding(store, name)) for name in names) == [0, 1]


def test_one_organization_claims_at_once(store: SqlStore) -> None:
    """Of an organization that nobody made, all claims of one moment are kept."""
    start = Barrier(4)
    accounts = [Holder("AWS_KMS", f"{n:012d}") for n in range(4)]

    def claim(number: int) -> object:
        start.wait(30)
        return outcome(store, enable(f"c-{number}", "acme", accounts[number], ACCOUNT))

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(claim, range(4)))

    assert all(isinstance(each, CommittedChange) for each in done), done
    assert holding(store, "acme") == tuple(sorted([*accounts, ACCOUNT]))


def test_an_administrator_allows_and_releases(store: SqlStore) -> None:
    """C9: an administrator lets another organization in, and releases what one holds."""
    applied(store, enable("a-1", "acme", ACCOUNT))
    organized(store, Settings(), organization="globex", links=0)

    allowed = allow(store, "globex", ACCOUNT)
    applied(store, enable("b-1", "globex", ACCOUNT))
    assert holding(store, "acme") == holding(store, "globex") == (ACCOUNT,)
    assert isinstance(outcome(store, enable("c-1", "initech", ACCOUNT)), KeyHeldByAnotherError)

    after = allow(store, "globex")
    assert after.holders == ()
    assert len({allowed.etag, after.etag, ""}) == 3
    assert isinstance(outcome(store, enable("b-2", "globex", ACCOUNT)), KeyHeldByAnotherError)
    # A region of globex has a key there still, so that acme's account is not free for a third one.
    allow(store, "acme")
    assert isinstance(outcome(store, enable("c-1", "initech", ACCOUNT)), KeyHeldByAnotherError)
    decided = [e.decision or {} for e in store.events(EVERY).events]
    told = [decision["holders"][str(ACCOUNT)] for decision in decided if "holders" in decision]
    assert told == [True, True, False, False]


def test_a_released_account_that_nobody_uses_is_free(store: SqlStore) -> None:
    """C9: a link holds the account until an administrator releases it; then the next one claims."""
    link(store, "acme", ACCOUNT)
    assert isinstance(outcome(store, enable("b-1", "globex", ACCOUNT)), KeyHeldByAnotherError)

    allow(store, "acme")

    applied(store, enable("b-1", "globex", ACCOUNT))
    assert holding(store, "globex") == (ACCOUNT,)


def test_a_cluster_without_an_organization(store: SqlStore) -> None:
    """C9: it claims nothing, and may name no key in what an organization holds."""
    applied(store, enable("alone-1", None, ACCOUNT))
    applied(store, enable("alone-2", None, ACCOUNT))
    assert store.held_elsewhere(None, [ACCOUNT]) == frozenset()

    applied(store, enable("a-1", "acme", ACCOUNT))

    assert isinstance(outcome(store, enable("alone-3", None, ACCOUNT)), KeyHeldByAnotherError)
    assert store.held_elsewhere(None, [ACCOUNT, VAULT]) == {ACCOUNT}
    first, second = store.apply([enable("a-2", "acme", VAULT), enable("alone-4", None, VAULT)])
    assert isinstance(first, CommittedChange)
    assert isinstance(second, KeyHeldByAnotherError)


def test_what_was_enabled_before_there_were_claims_holds(store: SqlStore) -> None:
    """C9: the organization whose regions use an account has it, though it never claimed it."""
    applied(store, unclaimed(enable("a-1", "acme", ACCOUNT)))
    assert not holding(store, "acme")

    assert store.held_elsewhere("globex", [ACCOUNT, VAULT]) == {ACCOUNT}
    assert isinstance(outcome(store, enable("b-1", "globex", ACCOUNT)), KeyHeldByAnotherError)
    with pytest.raises(KeyHeldByAnotherError):
        link(store, "globex", ACCOUNT)

    # Its own next proof writes the claim, whatever became of the region.
    applied(store, Change("a-1", revoked("a-1", (), NOW), an_event()))
    applied(store, enable("a-2", "acme", ACCOUNT))
    assert holding(store, "acme") == (ACCOUNT,)


def test_keys_that_no_organization_holds(store: SqlStore) -> None:
    """C9: neither the vendor's own key nor one with an external id makes an account somebody's."""
    platform = enable("a-1", "acme", ACCOUNT, key_type=PLATFORM)
    applied(store, unclaimed(platform))
    region = replace(
        held_by(a_region(), ACCOUNT, external_id="x" * 8), key_spec=KeySpec("AWS_KMS", "key")
    )
    named = of_organization(a_cluster("a-2", [region], organization="acme"))
    applied(store, enabling(named))

    assert store.held_elsewhere("globex", [ACCOUNT]) == frozenset()
    applied(store, enable("b-1", "globex", ACCOUNT))


def test_who_holds_something_is_not_deleted(store: SqlStore) -> None:
    """C9: a claim outlives the cluster that made it, until an administrator releases it."""
    applied(store, enable("a-1", "acme", ACCOUNT))

    def erase(current: Cluster | None) -> Decision:
        assert current is not None
        return without(current, ["r-0"], NOW)

    applied(store, Change("a-1", erase, an_event()))
    assert store.cluster("a-1") is None

    assert store.organization("acme").exists
    with pytest.raises(OrganizationNotEmptyError, match="AWS_KMS:111122223333"):
        store.change_organization(a_change(deleted("", NOW), organization="acme"))
    assert isinstance(outcome(store, enable("b-1", "globex", ACCOUNT)), KeyHeldByAnotherError)
    allow(store, "acme")
    store.change_organization(a_change(deleted("", NOW), organization="acme"))
    assert not store.organization("acme").exists
    applied(store, enable("b-1", "globex", ACCOUNT))


def test_bounds(store: SqlStore) -> None:
    """An organization has at most so many holders, and the claim of one more changes nothing."""
    organized(store, LINKED, organization="acme", links=0)
    many = [Holder("AWS_KMS", f"{n:012d}") for n in range(MAX_HOLDERS)]
    allow(store, "acme", *many)

    assert isinstance(outcome(store, enable("a-1", "acme", ACCOUNT)), TooManyHoldersError)
    assert len(holding(store, "acme")) == MAX_HOLDERS
    applied(store, enable("a-1", "acme", many[7]))


SPOILT = {
    "added": ["INSERT INTO holders SELECT organization, key_type, 'other', mac FROM holders"],
    "moved": ["UPDATE holders SET holder = 'other' WHERE organization = 'acme'"],
    "removed": ["DELETE FROM holders WHERE organization = 'acme'"],
    "given": ["UPDATE holders SET organization = 'globex' WHERE organization = 'acme'"],
}


@pytest.mark.parametrize("how", SPOILT)
def test_nobody_gets_an_account_by_editing_the_store(store: SqlStore, how: str) -> None:
    """A2: an organization of which somebody adds, moves or removes a holder serves nobody."""
    applied(store, enable("a-1", "acme", ACCOUNT))
    organized(store, Settings(), organization="globex", links=0)

    edit(store, *SPOILT[how])

    spoilt = "globex" if how == "given" else "acme"
    with pytest.raises(RowNotAuthenticError):
        store.organization(spoilt)
    result = outcome(store, enable("x-1", spoilt, ACCOUNT))
    assert isinstance(result, RowNotAuthenticError | KeyHeldByAnotherError)
    # Its region uses the account all the same, so that nobody else gets it.
    if how != "given":
        assert isinstance(outcome(store, enable("b-1", "globex", ACCOUNT)), KeyHeldByAnotherError)


def test_a_released_holder_that_is_put_back(store: SqlStore) -> None:
    """S10: the row of a released holder has a valid seal, and gives nobody the account back."""
    link(store, "acme", ACCOUNT)
    rows = _rows(store)
    allow(store, "acme")

    _put_back(store, rows)

    with pytest.raises(RowNotAuthenticError):
        store.organization("acme")
    assert isinstance(outcome(store, enable("a-1", "acme", ACCOUNT)), RowNotAuthenticError)


def _rows(store: SqlStore) -> list[dict[str, object]]:
    database, _ = store.parts
    return database.read(
        lambda c: [dict(row) for row in c.execute(text("SELECT * FROM holders")).mappings()]
    )


def _put_back(store: SqlStore, rows: list[dict[str, object]]) -> None:
    database, _ = store.parts

    def work(connection: Connection) -> None:
        for row in rows:
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO holders ({names}) VALUES ({values})"), row)

    database.write(work)


def test_a_poll_tells_of_a_claim(store: SqlStore) -> None:
    """S10: other replicas learn the floor of an organization that a change of a cluster made."""
    beat = store.register(Heartbeat("one", 0, b"", 120.0, NOW))
    applied(store, enable("a-1", "acme", ACCOUNT))

    claim, enabled = store.poll(beat)

    assert claim.organization is not None
    name, floor = claim.organization
    assert (name, floor.version) == ("acme", 1)
    assert isinstance(floor, Floor)
    assert (enabled.cluster, enabled.organization) == ("a-1", None)
