"""Every store keeps organizations and key links: whole, as the log has them, without a race."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import Connection, text

import store_vector
from builders import NOW, a_cluster, a_region, an_event, applied, enabling
from keyfold_server.domain.changes import Change, CommittedChange, RecordedRequest, RequestKey
from keyfold_server.domain.changes import created as cluster_created
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import (
    ClusterNameNotAllowedError,
    ConcurrentChangeError,
    EtagMismatchError,
    KeyLinkExistsError,
    KeyLinkInUseError,
    KeyLinkNotFoundError,
    OrganizationExistsError,
    OrganizationNotEmptyError,
    OrganizationNotFoundError,
    RequestIdReusedError,
    RequestInProgressError,
    RowNotAuthenticError,
    TooManyClustersError,
    TooManyKeyLinksError,
)
from keyfold_server.domain.events import EventQuery
from keyfold_server.domain.key_links import KeyUse, LinkUse, LinkUser
from keyfold_server.domain.keyspec import KeySpec
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.organization_changes import (
    DecideOrganization,
    created,
    deleted,
    link_created,
    link_deleted,
    link_updated,
    updated,
)
from keyfold_server.domain.organizations import DefaultKey, Organization, OrganizationView, Settings
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.domain.reliance import Reliance
from keyfold_server.store.sql.store import SqlStore
from organization_builders import LINKED, a_change, a_link, organized, using

EVERY = EventQuery(None, newest_first=False, limit=1_000)
DAY = 24 * 60 * 60 * 1000


@pytest.fixture(params=store_vector.KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """A new store."""
    with store_vector.a_place(request.param, tmp_path) as place:
        place.migrate()
        with closing(place.open()) as store:
            yield store


def change(store: SqlStore, decide: DecideOrganization, name: str = "org") -> OrganizationView:
    """Carries out a change of an organization."""
    return store.change_organization(a_change(decide, organization=name))


def enable(store: SqlStore, cluster: Cluster, reliance: Reliance) -> CommittedChange:
    """Makes a cluster that relies on its organization."""
    return applied(store, replace(enabling(cluster), reliance=reliance))


def edit(store: SqlStore, *statements: str) -> None:
    """Writes the database behind Keyfold's back."""
    database, _ = store.parts

    def work(connection: Connection) -> None:
        for statement in statements:
            assert connection.execute(text(statement)).rowcount > 0, statement

    database.write(work)


def test_an_organization_that_nobody_made_has_the_defaults(store: SqlStore) -> None:
    """One that clusters name exists before anybody makes it; another one does not exist."""
    applied(store, enabling(a_cluster(organization="org")))

    named, unknown = store.organization("org"), store.organization("nobody")

    assert named.organization == Organization("org")
    assert (named.exists, named.cluster_count) == (True, 1)
    assert not unknown.exists


def test_what_is_written_is_read(store: SqlStore) -> None:
    """Settings and links come back as they were decided, with an etag that each change renews."""
    settings = Settings("The Org", DefaultKey.PLATFORM, ("org-*", "o_%"), 5, 7)
    made = change(store, created(settings, NOW)).organization
    spec = KeySpec("AWS_KMS", "arn:x", "role", (("a", "b"),))
    link = replace(a_link(), description="for data", key_spec=spec)
    linked = change(store, link_created(link, NOW + 1)).organization

    read = store.organization("org").organization

    assert read == linked
    assert (read.settings, read.links) == (settings, (link,))
    assert (read.created_at, read.updated_at, read.version) == (NOW, NOW + 1, 2)
    assert read.etag == made.etag != ""
    change(store, updated(lambda s: replace(s, max_clusters=6), "", NOW))
    assert store.organization("org").organization.etag != made.etag


def test_each_change_is_one_entry_of_the_log(store: SqlStore) -> None:
    """The entry says who changed what about which organization, with the decision itself."""
    organized(store)
    change(store, link_deleted("main", "", NOW))
    change(store, deleted("", NOW))

    entries = store.events(EVERY).events

    assert [e.kind for e in entries] == [EntryKind.DECISION] * 4
    assert {(e.cluster, e.organization) for e in entries} == {(None, "org")}
    told = [e.decision for e in entries]
    assert told[0] is not None
    assert told[0]["settings"]["default_key"] == "LINKED"
    assert told[1] == {
        "links": {
            "main": {
                "principal": "",
                "proven": ["eu"],
                "region": "eu",
                "type": "LOCAL",
                "uri": "local:one",
            }
        }
    }
    assert told[2:] == [{"links": {"main": None}}, {"settings": None}]


def test_what_changes_nothing_is_an_attempt(store: SqlStore) -> None:
    """Made again with the same values, an organization and a link stay as they are."""
    before = organized(store).organization

    change(store, created(LINKED, NOW + 9))
    change(store, link_created(replace(a_link(), created_at=NOW + 9), NOW + 9))

    assert store.organization("org").organization == before
    assert [e.kind for e in store.events(EVERY).events][2:] == [EntryKind.ATTEMPT] * 2


@pytest.mark.parametrize(
    ("decide", "error"),
    [
        (created(Settings(), NOW), OrganizationExistsError),
        (updated(lambda s: s, "0123", NOW), EtagMismatchError),
        (deleted("", NOW), OrganizationNotEmptyError),
        (link_created(a_link(uri="local:two"), NOW), KeyLinkExistsError),
        (link_created(a_link("other"), NOW), KeyLinkExistsError),
        (link_deleted("none", "", NOW), KeyLinkNotFoundError),
        (link_deleted("main", "0123", NOW), EtagMismatchError),
    ],
)
def test_a_change_that_may_not_happen_changes_nothing(
    store: SqlStore, decide: DecideOrganization, error: type[Exception]
) -> None:
    """Refused under the lock, it leaves neither a row nor an entry."""
    before = organized(store).organization

    with pytest.raises(error):
        change(store, decide)

    assert store.organization("org").organization == before
    assert len(store.events(EVERY).events) == 2


def test_limits_hold_under_the_lock(store: SqlStore) -> None:
    """The link beyond the limit is refused, whoever makes it."""
    organized(store, Settings(max_key_links=2), links=2)

    with pytest.raises(TooManyKeyLinksError, match="2 key links"):
        change(store, link_created(a_link("third", "us"), NOW))


def test_an_organization_with_clusters_is_not_deleted(store: SqlStore) -> None:
    """The error names the clusters; one without clusters and links is gone, and is not found."""
    change(store, created(LINKED, NOW))
    for number in range(12):
        applied(store, enabling(a_cluster(f"c-{number:02}", organization="org")))
    with pytest.raises(OrganizationNotEmptyError, match=r"c-00, .*c-09 and 2 more"):
        change(store, deleted("", NOW))

    change(store, created(LINKED, NOW), "empty")
    change(store, deleted("", NOW), "empty")

    assert not store.organization("empty").exists
    with pytest.raises(OrganizationNotFoundError):
        change(store, deleted("", NOW), "empty")


def test_a_deleted_organization_can_be_made_again(store: SqlStore) -> None:
    """Its version goes on, so that no etag of the old one fits the new one."""
    old = change(store, created(LINKED, NOW)).organization
    change(store, deleted("", NOW))

    new = change(store, created(LINKED, NOW + 1)).organization

    assert new.version == 3
    assert new.etag != old.etag
    assert store.organization("org").organization == new


def test_a_link_knows_its_users(store: SqlStore) -> None:
    """The regions that use a link are counted, and the first of them named, by cluster and region.

    A link of that name of another organization, and links whose names begin alike, have their own.
    """
    organized(store, links=2)
    organized(store, organization="org-1")
    for name in ("b", "a"):
        regions = [using(a_region("us")), using(a_region("eu")), a_region("ap")]
        applied(store, enabling(a_cluster(name, regions, organization="org")))
    alike = [using(a_region("eu"), "main-1")]
    applied(store, enabling(a_cluster("c", alike, organization="org")))
    applied(store, enabling(a_cluster("d", [using(a_region("eu"))], organization="org-1")))

    every = store.organization("org", users=3).uses
    one = store.organization("org", link="main", users=100).uses

    key = a_region("eu").key_spec
    assert every["main"] == LinkUse(
        (LinkUser("a", "eu"), LinkUser("a", "us"), LinkUser("b", "eu")),
        4,
        (KeyUse("eu", key, 2), KeyUse("us", key, 2)),
    )
    assert every["main-1"] == LinkUse((LinkUser("c", "eu"),), 1, (KeyUse("eu", key, 1),))
    assert set(one) == {"main"}
    assert len(one["main"].users) == 4
    assert store.organization("org").uses == {}
    assert store.cluster("d") is not None


def test_a_link_in_use_stays(store: SqlStore) -> None:
    """It is neither deleted nor given another key, and the error names who uses it."""
    link = organized(store).organization.links[0]
    applied(store, enabling(a_cluster("c", [using(a_region("eu"))], organization="org")))
    other = (KeySpec("LOCAL", "local:two"), ("eu",))

    with pytest.raises(KeyLinkInUseError, match="c/eu"):
        change(store, link_deleted("main", "", NOW))
    with pytest.raises(KeyLinkInUseError, match=r"c/eu.*move_link"):
        change(store, link_updated("main", "", NOW, seen=link, description=None, key=other))

    described = link_updated("main", "", NOW, seen=link, description="new", key=None)
    assert change(store, described).organization.link("main").description == "new"


def test_a_cluster_takes_its_key_from_a_link_that_is_still_there(store: SqlStore) -> None:
    """A link that was deleted, or got another key, while a cluster was proven takes no new user."""
    link = organized(store).organization.links[0]
    cluster = a_cluster("c", [using(a_region("eu"))], organization="org")
    relies = Reliance("org", (link,), DefaultKey.LINKED, "c")
    other = (KeySpec("LOCAL", "local:two"), ("eu",))
    change(store, link_updated("main", "", NOW, seen=link, description=None, key=other))

    with pytest.raises(ConcurrentChangeError, match="key link main"):
        enable(store, cluster, relies)
    with pytest.raises(ConcurrentChangeError, match="default_key"):
        enable(store, cluster, replace(relies, links=(), default_key=DefaultKey.PLATFORM))

    assert store.cluster("c") is None
    link = store.organization("org").organization.links[0]
    assert enable(store, cluster, replace(relies, links=(link,))).cluster.regions[0].link == "main"


def test_a_cluster_keeps_to_its_organizations_limits(store: SqlStore) -> None:
    """Patterns and the number of clusters are checked where no other change can come between."""
    change(store, created(Settings(cluster_patterns=("a-*",), max_clusters=2), NOW))
    relies = Reliance("org", makes="a-1", counts=True)
    with pytest.raises(ConcurrentChangeError, match="limit"):
        enable(store, a_cluster("a-1", organization="org"), replace(relies, counts=False))
    with pytest.raises(ClusterNameNotAllowedError, match="a-\\*"):
        enable(store, a_cluster("b", organization="org"), replace(relies, makes="b"))

    wanted = [
        Change(name, cluster_created(a_cluster(name, organization="org")), an_event(), None, r)
        for name in ("a-1", "a-2", "a-3")
        for r in [replace(relies, makes=name)]
    ]
    made = store.apply(wanted)

    assert [type(each) for each in made[:2]] == [CommittedChange] * 2
    assert isinstance(made[2], TooManyClustersError)


def test_enables_race_for_the_last_place(store: SqlStore) -> None:
    """Of clusters that are made at once, no more succeed than the organization may have."""
    change(store, created(Settings(max_clusters=3), NOW))
    start = Barrier(6)

    def make(number: int) -> object:
        name = f"c-{number}"
        start.wait(30)
        reliance = Reliance("org", makes=name, counts=True)
        return store.apply(
            [replace(enabling(a_cluster(name, organization="org")), reliance=reliance)]
        )[0]

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(make, range(6)))

    assert sum(isinstance(each, CommittedChange) for each in done) == 3
    assert sum(isinstance(each, TooManyClustersError) for each in done) == 3
    assert store.organization("org").cluster_count == 3


def test_a_link_is_deleted_or_taken(store: SqlStore) -> None:
    """Of a deletion of a link and an Enable that takes it, at once, exactly one succeeds."""
    for round_ in range(5):
        name = f"org-{round_}"
        link = organized(store, organization=name).organization.links[0]
        start = Barrier(2)

        def take(name: str = name, link: object = link, start: Barrier = start) -> object:
            cluster = a_cluster(f"c-{name}", [using(a_region("eu"))], organization=name)
            start.wait(30)
            assert link is not None
            relies = Reliance(name, (store.organization(name).organization.links or (link,))[:1])  # type: ignore[arg-type]
            return store.apply([replace(enabling(cluster), reliance=relies)])[0]

        def drop(name: str = name, start: Barrier = start) -> object:
            start.wait(30)
            try:
                return change(store, link_deleted("main", "", NOW), name)
            except KeyLinkInUseError as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            taken, dropped = pool.submit(take), pool.submit(drop)
        outcomes = (
            isinstance(taken.result(), CommittedChange),
            isinstance(dropped.result(), OrganizationView),
        )
        assert outcomes in ((True, False), (False, True))


def test_changes_of_one_organization_do_not_lose_each_other(store: SqlStore) -> None:
    """Links that are made at once are all there, also in an organization that nobody made."""
    start = Barrier(4)

    def make(number: int) -> object:
        start.wait(30)
        return change(store, link_created(a_link(f"l-{number}", f"r-{number}"), NOW))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(4)))

    assert [link.name for link in store.organization("org").organization.links] == [
        f"l-{number}" for number in range(4)
    ]


def test_a_request_is_recorded_with_its_change(store: SqlStore) -> None:
    """A request_id is carried out once, and belongs to one request."""
    digest = hashlib.sha256(b"body").digest()
    key = RequestKey("local", "CreateOrganization", "org", "r-1", digest)
    store.change_organization(a_change(created(LINKED, NOW), request=key))

    view, recorded = store.requested_organization("org", key)

    assert view.organization.settings == LINKED
    assert recorded == RecordedRequest(digest, 1)
    assert store.requested_organization("org", None)[1] is None
    with pytest.raises(RequestInProgressError):
        store.change_organization(a_change(created(LINKED, NOW), request=key))
    other = replace(key, digest=hashlib.sha256(b"other").digest())
    with pytest.raises(RequestIdReusedError):
        store.change_organization(a_change(created(LINKED, NOW), request=other))


def test_organizations_are_listed_by_name(store: SqlStore) -> None:
    """Those that somebody made and those that only clusters name, each once, in one order."""
    for name in ("a", "c", "b-1"):
        change(store, created(LINKED, NOW), name)
    for number, owner in enumerate(["d", "a", "B", "b-2", "d", None]):
        applied(store, enabling(a_cluster(f"x-{number}", organization=owner)))

    assert store.organization_names("", 10, None) == ["B", "a", "b-1", "b-2", "c", "d"]
    assert store.organization_names("a", 2, None) == ["b-1", "b-2"]
    assert store.organization_names("d", 2, None) == []
    assert store.organization_names("", 10, ("b-*", "d")) == ["b-1", "b-2", "d"]
    found = store.organizations(["a", "d", "none"])
    assert {
        name: view.cluster_count for name, view in found.items() if not isinstance(view, Exception)
    } == {"a": 1, "d": 2, "none": 0}
    assert store.organizations([]) == {}


SPOILT = {
    "edited": ["UPDATE organizations SET max_clusters = 99"],
    "edited link": ["UPDATE key_links SET key_uri = 'local:evil'"],
    "without link": ["DELETE FROM key_links"],
    "gone": ["DELETE FROM key_links", "DELETE FROM organizations"],
}


@pytest.mark.parametrize("how", SPOILT)
def test_rows_that_somebody_wrote_or_took_away_are_not_authentic(store: SqlStore, how: str) -> None:
    """Nobody gets other limits, keys or names by editing the store, or by deleting rows (A2)."""
    organized(store)
    relies = Reliance("org", makes="c")

    edit(store, *SPOILT[how])

    with pytest.raises(RowNotAuthenticError, match="org"):
        store.organization("org")
    with pytest.raises(RowNotAuthenticError):
        change(store, updated(lambda s: s, "", NOW))
    with pytest.raises(RowNotAuthenticError):
        enable(store, a_cluster("c", organization="org"), relies)
    assert isinstance(store.organizations(["org"])["org"], RowNotAuthenticError)


def saved(store: SqlStore) -> list[tuple[str, dict[str, object]]]:
    """Reads the rows of organizations and links, to put them back later."""
    database, _ = store.parts
    tables = ("organizations", "key_links")
    return database.read(
        lambda c: [
            (table, dict(row))
            for table in tables
            for row in c.execute(text(f"SELECT * FROM {table}")).mappings()
        ]
    )


def put_back(store: SqlStore, rows: list[tuple[str, dict[str, object]]]) -> None:
    """Replaces the rows by older ones, whose MACs are valid."""
    database, _ = store.parts

    def work(connection: Connection) -> None:
        for table in ("key_links", "organizations"):
            connection.execute(text(f"DELETE FROM {table}"))
        for table, row in rows:
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(
                text(f"INSERT INTO {table} ({names}) VALUES ({values})"),
                row,
            )

    database.write(work)


def test_older_rows_are_not_authentic(store: SqlStore) -> None:
    """Rows of an earlier time have valid seals, and are not those of the newest decision (S10)."""
    organized(store)
    rows = saved(store)
    link = store.organization("org").organization.links[0]
    other = (KeySpec("LOCAL", "local:two"), ("eu",))
    change(store, link_updated("main", "", NOW, seen=link, description=None, key=other))

    put_back(store, rows)

    with pytest.raises(RowNotAuthenticError):
        store.organization("org")


def test_rows_of_a_deleted_organization_are_not_authentic(store: SqlStore) -> None:
    """Nobody brings a deleted organization back by its rows, not even after pruning (S10, S11)."""
    change(store, created(LINKED, NOW))
    rows = saved(store)
    change(store, deleted("", NOW))
    applied(store, enabling(a_cluster("other")))

    store.prune(NOW * 2, -DAY)
    assert EntryKind.PRUNING in [e.kind for e in store.events(EVERY).events]
    put_back(store, rows)

    with pytest.raises(RowNotAuthenticError):
        store.organization("org")


def test_pruning_keeps_the_newest_decision(store: SqlStore) -> None:
    """An organization whose entries were pruned serves on, and cannot go back to older rows."""
    organized(store)
    before = store.organization("org")
    rows = saved(store)
    change(store, updated(lambda s: replace(s, max_clusters=9), "", NOW))
    after = store.organization("org")
    applied(store, enabling(a_cluster("other")))

    store.prune(NOW * 2, -DAY)

    assert store.organization("org") == after != before
    kinds = [e.kind for e in store.events(EVERY).events]
    assert EntryKind.PRUNING in kinds
    put_back(store, rows)
    with pytest.raises(RowNotAuthenticError):
        store.organization("org")


def test_a_poll_tells_of_an_organization(store: SqlStore) -> None:
    """The entry of a change reaches every replica, and names no cluster that would be dropped."""
    beat = store.register(Heartbeat("one", 0, b"", 120.0, NOW))
    organized(store, links=0)

    [entry] = store.poll(beat)

    assert (entry.kind, entry.cluster, entry.root) == (EntryKind.DECISION, None, None)
    assert entry.organization is not None
    assert entry.organization[0] == "org"
    assert entry.is_news
