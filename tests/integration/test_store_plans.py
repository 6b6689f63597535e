"""No statement of a call, a poll or a change scans a table that grows (protocol S12).

A script calls every method of the store, and the tests ask the database for its plan of every
statement that the store then executed. So a new method needs a step in the script, and a new
statement is covered by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection

import plans
import postgres
import store_vector
from builders import (
    HOLDER,
    NOW,
    a_cluster,
    a_region,
    a_request,
    a_rotation,
    an_event,
    applied,
    attempted,
    enabled,
    enabling,
    record_of,
)
from keyfold_server.domain import organization_changes
from keyfold_server.domain.bans import Ban
from keyfold_server.domain.changes import (
    Change,
    RequestKey,
    deleted,
    restored,
    retired,
    revoked,
    with_regions,
)
from keyfold_server.domain.erasure import erased
from keyfold_server.domain.events import EventQuery, RootUse
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.holders import Claim, Holder
from keyfold_server.domain.key_usage import KeyQuery, KeyUses
from keyfold_server.domain.lifecycle import State
from keyfold_server.domain.operation_store import OperationsStore
from keyfold_server.domain.operations import (
    ActionKind,
    Failure,
    OperationKey,
    Place,
    Progress,
    Starter,
    Work,
    advanced,
    started,
    taken,
)
from keyfold_server.domain.operations import deleted as operation_deleted
from keyfold_server.domain.operations import ended as finished
from keyfold_server.domain.organization_changes import link_deleted, link_moving, link_updated
from keyfold_server.domain.organization_store import OrganizationsStore
from keyfold_server.domain.ports import ClusterFilter, Heartbeat, Store
from keyfold_server.domain.reliance import Reliance
from keyfold_server.domain.rights import Coverage, Identity
from keyfold_server.domain.seats import Seat, SeatClaim
from keyfold_server.domain.transitions import Condition, Transition
from keyfold_server.domain.usage import MINUTE, UsageFilter, UsageKey, UsageQuery
from keyfold_server.store import schema
from keyfold_server.store.database.dialect import ACCESS_MODE, AccessMode
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.tables import clusters, listing
from organization_builders import LINKED, a_change, organized, using

COUNTS: Final = {"census", "cannot_wrap", "failing", "unserved"}
"""Methods that count all regions; of all replicas one at a time calls them."""

BEAT: Final = Heartbeat("one", 0, b"", 120.0, NOW)


def _life(store: SqlStore) -> None:
    """Takes a cluster through its life, alone and in a group."""
    key = a_request()
    two = a_cluster("acme", [a_region("eu"), a_region("us")], organization="org")
    cluster = applied(store, enabling(two, key)).cluster
    assert record_of(store, key) is not None
    moved = [a_rotation(region, "local:two", fresh=True) for region in cluster.regions]
    cluster = applied(
        store, Change("acme", with_regions(cluster, moved, NOW), an_event(), a_request("acme", "2"))
    ).cluster
    for back in (False, True):
        decide = retired("acme", "eu", 1, NOW, back=back)
        applied(store, Change("acme", decide, an_event()))
    cluster = applied(store, Change("acme", revoked("acme", (), NOW), an_event())).cluster
    applied(store, Change("acme", restored(cluster, ["eu", "us"], NOW), an_event()))
    group = [enabling(a_cluster(f"c-{n}"), a_request(f"c-{n}", f"r-{n}")) for n in range(100)]
    assert not any(isinstance(each, Exception) for each in store.apply(group))


def _erasure(store: SqlStore) -> None:
    """Deletes and erases a region, and then the cluster, and uses its name again."""
    key = a_request("over")
    over = a_cluster("over", [a_region("eu"), a_region("us")])
    applied(store, enabling(over, key))
    store.issue_external_id("cluster:over", "id-of-over", an_event())
    applied(store, Change("over", revoked("over", (), NOW), an_event()))
    assert store.erasure_turn(0) is not None
    for region in ("eu", "us"):
        applied(store, Change("over", deleted("over", [region], 0), an_event()))
        turn = store.erasure_turn(0)
        assert turn is not None
        applied(store, Change("over", erased(turn.due[0], turn.now), an_event()))
    assert store.clear_traces()
    applied(store, enabling(over, key))


def _cluster(store: SqlStore) -> None:
    assert store.cluster("acme") is not None


def _lists(store: SqlStore) -> None:
    every = ClusterFilter(organization="org")
    for which in (
        every,
        replace(every, state=State.ENABLED),
        replace(every, key_uri="local:two"),
        replace(every, key_uri="local:two", behind=("eu", "2")),
        *(ClusterFilter(health=health) for health in Health),
        ClusterFilter(state=State.REVOKED),
        ClusterFilter(key_uri="local:two"),
        ClusterFilter(key_uri="local:two", state=State.REVOKED),
        replace(every, can_wrap=False),
        replace(every, can_wrap=True),
        replace(every, covered=(Coverage(("ac*", "b"), ("o*",)), Coverage(None, ("org",)))),
        ClusterFilter(covered=(Coverage(("ac*", "b"), None),)),
        ClusterFilter(name_prefix="ac"),
        ClusterFilter(),
    ):
        store.clusters(which, "a", 2)


def _observations(store: SqlStore) -> None:
    seen = Observation("root:ab12", Health.HEALTHY, NOW, NOW)
    store.observe([seen], [Transition("ab12", Condition.CANNOT_WRAP, Condition.HEALTHY, seen)])
    assert store.observations(["root:ab12", "kek:00"])


def _uses(store: SqlStore) -> None:
    store.used({b"k" * 16: NOW})
    assert store.seen((), [b"k" * 16, b"l" * 16]).last_uses


def _usage(store: SqlStore) -> None:
    store.count_usage("one", 1, {UsageKey(0, "acme", "eu", "me", "Wrap", "OK"): 3}, NOW)
    everything, some = (Coverage(None, None),), (Coverage(("ac*",), ("org",)),)
    for which in (
        UsageFilter(cluster="acme", start=0, end=NOW),
        UsageFilter(organization="org", start=0, end=NOW),
        UsageFilter(start=0, end=NOW, span=60 * MINUTE),
    ):
        for covered in (everything, some):
            after = UsageKey(0, "", "", "", "", "")
            assert store.usage(UsageQuery(which, covered, after, 10)).rows


def _key_usage(store: SqlStore) -> None:
    everything, some = (Coverage(None, None),), (Coverage(("ac*",), ("o*",), ("eu",)),)
    for query in (
        KeyQuery(family="local:one"),
        KeyQuery("local:one", "local:one", "1", "", HOLDER),
        KeyQuery(principal=""),
        KeyQuery(holder=HOLDER, key_version="1"),
        KeyQuery(principal="", holder=HOLDER),
    ):
        for covered in (everything, some):
            store.key_usage_summary(query, covered, NOW)
            page = store.key_usage(query, covered, None, 2)
            assert page.last is not None
            assert store.key_usage(query, covered, page.last, 2).more == (covered == everything)


def _external_ids(store: SqlStore) -> None:
    assert store.issue_external_id("org", "id-of-org", an_event()) == store.external_id("org")


def _seats(store: SqlStore) -> None:
    pool = [Seat(f"seat-{n}", "FAKE", "eu", f"role/{n}") for n in range(3)]
    store.reserve_seats("organization:org", pool, 1, an_event())
    taking = SeatClaim("seat-0", "organization:org", "eu")
    applied(store, replace(enabling(a_cluster("seated")), seats=(taking,)))
    assert len(store.issued_to("organization:org").seats) == len(store.issued_seats()) == 1


def _poll(store: SqlStore) -> None:
    beat = store.register(BEAT)
    assert store.poll(beat) == []
    enabled(store, "news")
    assert len(store.poll(beat)) == 1


def _attempts(store: SqlStore) -> None:
    assert attempted(store).decided


def _events(store: SqlStore) -> None:
    store.refused("ab12", Observation("root:ab12", Health.KEY_DISABLED, NOW, NOW), "one", b"k" * 16)
    every = EventQuery(None, newest_first=False, limit=2)
    for which in (
        every,
        replace(every, clusters=("acme", "c-1")),
        replace(every, organizations=("org",)),
        replace(every, caller="local"),
        replace(every, start=NOW, end=NOW + 10_000_000),
    ):
        for query in (which, replace(which, newest_first=True), replace(which, after=5)):
            store.events(query)
    whole, narrow = Coverage(None, None), Coverage(("a*", "b"), ("o*",), ("e*", "us"))
    for use in (RootUse((whole,)), RootUse((narrow, whole), "acme", "org")):
        store.roots_used(["ab12", "cd34"], use)
    assert [store.organization_of(name) for name in ("acme", "gone")] == ["org", None]
    assert store.mac("page", b"") != store.mac("anchor", b"")
    check = store.check_log(store.check_log(None, 3).last, 1_000)
    assert check.complete
    assert set(store.log_marks([1, 2, check.newest]).found) == {1, 2, check.newest}


def _organizations(store: SqlStore) -> None:
    for name in ("org", "org-1"):
        organized(store, replace(LINKED, max_clusters=5), organization=name, links=2)
    link = store.organization("org").organization.links[0]
    cluster = a_cluster("linked", [using(a_region("eu"))], organization="org")
    relies = Reliance("org", (link,), makes="linked", counts=True)
    applied(store, replace(enabling(cluster), reliance=relies))
    key = RequestKey("local", "UpdateKeyLink", "org", "r", b"d" * 32)
    changed = link_updated("main-1", "", NOW, seen=link, description="new", key=None)
    store.change_organization(a_change(changed, request=key))
    assert store.requested_organization("org", key)[1]
    for linked in (None, "main"):
        assert store.organization("org", link=linked, users=5).use("main").count == 1
    for patterns in (None, ("org*", "x")):
        assert store.organization_names("a", 5, patterns) == ["org", "org-1"]
    assert set(store.organizations(["org", "none"])) == {"org", "none"}
    for link in store.organization("org-1").organization.links:
        dropped = link_deleted(link.name, "", NOW)
        store.change_organization(a_change(dropped, organization="org-1"))
    _holders(store)
    store.change_organization(a_change(organization_changes.deleted("", NOW), organization="org-1"))


def _holders(store: SqlStore) -> None:
    held = Holder("LOCAL", HOLDER)
    for name, organization in (("held-1", "org"), ("held-2", None)):
        claim = Claim(organization, (held,))
        made = enabling(a_cluster(name, organization=organization))
        store.apply([replace(made, claim=claim)])
        assert store.requested(name, None, claim)[2] == (set() if organization else {held})
    assert store.held_elsewhere("org-1", [held]) == {held}
    release = organization_changes.updated(lambda s: s, "", NOW, holders=())
    store.change_organization(a_change(release))


def _operations(store: SqlStore) -> None:
    key = OperationKey("0123456789abcdef", "op")
    starter = Starter(Identity(("local",), "loopback"))
    for name in ("op", "other"):
        work = Work(ActionKind.ROTATE, organization="org")
        made = started(key._replace(name=name), name.encode().rjust(16), work, starter)
        store.change_operation(replace(made, event=an_event()))
    store.change_operation(taken(key, "one/a", 60.0))
    failure = Failure("acme", "eu", "REVOKED", "it is revoked")
    progress = Progress(Place("acme", "eu"), failed=1)
    store.change_operation(advanced(key, "one/a", 60.0, progress=progress, failures=(failure,)))
    assert store.operation(key)
    assert store.operation_failures(b"op".rjust(16))
    assert len(store.operations(key, 5)) == 1
    assert len(store.open_operations(5)) == 2
    assert len(store.free_operations(5)) == 1
    store.change_operation(finished(key, "one/a", "done", "", an_event()))
    store.change_operation(replace(operation_deleted(key), event=an_event()))
    link = organized(store, organization="moved").organization.link("main")
    move = Work(ActionKind.MOVE_LINK, organization="moved", key_link="main")
    begun = replace(started(key, b"m" * 16, move, starter), event=an_event())
    moving = link_moving("main", (link.key_spec, ("eu",)), "op", NOW, seen=link)
    store.change_organization(replace(a_change(moving, organization="moved"), operation=begun))


SCRIPT: Final[dict[tuple[str, ...], Callable[[SqlStore], object]]] = {
    ("apply", "requested"): _life,
    (
        "organization",
        "requested_organization",
        "organization_names",
        "organizations",
        "change_organization",
        "held_elsewhere",
    ): _organizations,
    (
        "operation",
        "operations",
        "open_operations",
        "free_operations",
        "operation_failures",
        "change_operation",
    ): _operations,
    ("erasure_turn", "clear_traces"): _erasure,
    ("attempted",): _attempts,
    ("ban",): lambda store: store.ban(
        Ban("ghost", an_event(), a_cluster("ghost"), a_request("ghost"))
    ),
    ("uid",): lambda store: store.uid,
    ("users_of_roots",): lambda store: store.users_of_roots(["ab12", "cd34"]),
    ("last_refusals",): lambda store: store.last_refusals(["ab12", "cd34"]),
    ("cluster",): _cluster,
    ("named",): lambda store: store.named(["acme", "nobody"]),
    ("superseded_wraps",): lambda store: store.superseded_wraps("acme"),
    ("owner_of",): lambda store: store.owner_of(b"k" * 16),
    ("clusters",): _lists,
    ("users_of",): lambda store: store.users_of("local:one", lambda _: True),
    ("roots_in_use",): lambda store: [
        store.roots_in_use("ab", of) for of in (None, frozenset({"eu"}))
    ],
    ("samples",): lambda store: [store.samples("ab", of) for of in (None, frozenset({"eu"}))],
    ("key_usage", "key_usage_summary"): _key_usage,
    ("claim",): lambda store: [store.claim({"work": 1_000, "more": 9}) for _ in range(2)],
    ("refused",): lambda store: store.refused(
        "ab12", Observation("root:ab12", Health.KEY_DISABLED, NOW, NOW), "one"
    ),
    ("register", "poll"): _poll,
    ("reconciled",): lambda store: store.reconciled(),
    ("replicas",): lambda store: store.replicas(),
    ("observe", "observations"): _observations,
    ("external_id", "issue_external_id"): _external_ids,
    ("reserve_seats", "issued_to", "issued_seats"): _seats,
    ("used", "seen"): _uses,
    ("events", "roots_used", "organization_of", "check_log", "log_marks", "mac"): _events,
    ("uid", "users_of_roots", "last_refusals"): lambda store: (
        store.uid,
        store.users_of_roots(["ab12", "cd34"]),
        store.last_refusals(["ab12", "cd34"]),
    ),
    ("count_usage", "usage"): _usage,
    ("prune_history",): lambda store: store.prune_history(NOW + 9_000, 0),
    ("prune_turns",): lambda store: store.prune_turns(NOW),
    ("prune_usage",): lambda store: store.prune_usage(NOW, 0),
    ("prune",): lambda store: store.prune(NOW + 9_000, 0),
    ("leave",): lambda store: store.leave("one"),
}
"""Calls, in their order, by the methods of `Store` that they call."""


def test_the_script_calls_every_method() -> None:
    """S12: whoever adds a method to the store adds it to the script."""
    ports = (Store, KeyUses, OrganizationsStore, OperationsStore)
    methods = {name for port in ports for name in vars(port) if not name.startswith("_")}
    assert {name for names in SCRIPT for name in names} == methods - COUNTS


@pytest.mark.parametrize("kind", store_vector.KINDS)
def test_no_statement_scans_what_grows(kind: str, tmp_path: Path) -> None:
    """S12: the database finds the rows of every statement by an index."""
    scanned = {"sqlite": plans.scanned_by_sqlite, "postgresql": _forced}[kind]
    with store_vector.a_place(kind, tmp_path) as place:
        place.migrate()
        with closing(place.open()) as store:
            with plans.collected() as statements:
                for call in SCRIPT.values():
                    call(store)
            assert len(statements) > 30
            with store.parts[0].engine.connect() as bare:
                connection = bare.execution_options(**{ACCESS_MODE: AccessMode.WRITE})
                found = {
                    statement: tables
                    for statement, parameters in statements.items()
                    if (tables := scanned(connection, statement, parameters) & plans.GROW)
                }
                # The same reading of plans finds a scan.
                census = "SELECT state, count(*) FROM regions WHERE key_type = 'x' GROUP BY state"
                assert scanned(connection, census, ()) == {"regions"}
    assert found == {}


PAGE: Final = 50
MANY: Final = 20_000

FILL: Final = f"""
INSERT INTO clusters (uid, name, organization, epoch, version, created_at, updated_at, children,
                      history_head, history_count, service_key_id, mac)
SELECT decode(md5(n::text), 'hex'), 'c-' || lpad(n::text, 5, '0'),
       CASE WHEN n >= {MANY} - 100 THEN 'last' END, 1, 1, 0, 0, '', '', 0, '', ''
FROM generate_series(0, {MANY} - 1) n;
INSERT INTO regions (cluster_uid, name, state, state_since, key_type, key_uri, key_principal,
                     key_options, root_uri, root_subject, kek_subject, cluster, mac)
SELECT uid, 'eu', CASE WHEN organization IS NULL THEN 'ENABLED' ELSE 'REVOKED' END, 0, 'LOCAL', '',
       '', '{{}}', coalesce(organization, 'many'), 'root:' || coalesce(organization, 'many'),
       'kek:' || encode(uid, 'hex'), name, ''
FROM clusters;
INSERT INTO observations (subject, health, since, last_check, message, request_id)
SELECT 'root:' || coalesce(organization, 'many'), min(CASE WHEN organization IS NULL THEN 'HEALTHY'
       ELSE 'KEY_DISABLED' END), 0, 0, '', ''
FROM clusters GROUP BY organization
UNION ALL SELECT 'kek:' || encode(uid, 'hex'), 'HEALTHY', 0, 0, '', '' FROM clusters;
"""
"""Many clusters under one root key, and a hundred under another one, whose names come last."""


@pytest.mark.parametrize("version", ["15", "18"])
def test_a_page_reads_about_as_much_as_it_shows(version: str, tmp_path: Path) -> None:
    """S12: a filter finds its page whether few or many fulfil it, and wherever their names are.

    A database that takes the clusters of a root key to be spread over all names walks through all
    names to find those that come last.
    """
    server = postgres.shared(version)
    name = server.create(server.migrated)
    last = (Coverage(None, ("last",)),)
    try:
        with closing(server.open(name, postgres.a_service_key(tmp_path))) as store:
            server.run(FILL, name)
            server.run("ANALYZE", name)
            for which in (
                ClusterFilter(),
                ClusterFilter(key_uri="many"),
                ClusterFilter(key_uri="last"),
                ClusterFilter(key_uri="none"),
                ClusterFilter(state=State.ENABLED),
                ClusterFilter(state=State.REVOKED),
                ClusterFilter(state=State.DELETED),
                ClusterFilter(organization="last"),
                ClusterFilter(organization="last", state=State.REVOKED),
                ClusterFilter(covered=last),
                ClusterFilter(covered=(Coverage((f"c-{MANY // 100 - 1}*",), None),)),
                ClusterFilter(name_prefix=f"c-{MANY // 100 - 1}"),
                ClusterFilter(health=Health.HEALTHY),
                ClusterFilter(health=Health.THROTTLED),
            ):
                where = listing.page(which, "", PAGE)
                statement = clusters.AGGREGATE.where(where).order_by(schema.clusters.c.name)
                read = store.parts[0].read(partial(plans.rows_read, statement=statement))
                # A cluster of the page is looked up in a few tables.
                assert read < 30 * PAGE, which
    finally:
        server.drop(name)


def test_sqlite_walks_an_index_for_the_page_of_a_key_or_a_state(tmp_path: Path) -> None:
    """S12: it reads the names from where the page before ended, and sorts none."""
    with store_vector.a_place("sqlite", tmp_path) as place:
        place.migrate()
        with closing(place.open()) as store, plans.collected() as statements:
            for which in (ClusterFilter(key_uri="k"), ClusterFilter(state=State.ENABLED)):
                store.clusters(which, "a", PAGE)
            pages = {text: each for text, each in statements.items() if "DISTINCT" in text}
            assert len(pages) == 2
            with store.parts[0].engine.connect() as connection:
                for text, parameters in pages.items():
                    explain = f"EXPLAIN QUERY PLAN {text}"
                    steps = [row[-1] for row in connection.exec_driver_sql(explain, parameters)]
                    assert not [step for step in steps if "FOR DISTINCT" in step]
                    assert [step for step in steps if "COVERING INDEX ix_regions_" in step]


def test_sqlite_does_not_find_regions_by_their_being_enabled(tmp_path: Path) -> None:
    """S12: most regions are enabled, so an index of states would have the sweep read them all."""
    with store_vector.a_place("sqlite", tmp_path) as place:
        place.migrate()
        with closing(place.open()) as store:
            enabled(store)
            with plans.collected() as statements:
                store.samples("ab")
                store.roots_in_use("ab")
                store.census(0)
                store.cannot_wrap(0)
                store.failing(0)
                store.unserved(frozenset({"eu"}), 1)
            with store.parts[0].engine.connect() as connection:
                steps = [
                    row[-1]
                    for statement, parameters in statements.items()
                    if "regions" in statement
                    for row in connection.exec_driver_sql(
                        f"EXPLAIN QUERY PLAN {statement}", parameters
                    )
                ]
    found = [step for step in steps if "regions" in step]
    assert len(found) == 7
    assert not [step for step in found if "ix_regions_state" in step]
    # What counts them all reads the index alone.
    assert all("INDEX" in step for step in found)
    assert all("COVERING" in step for step in found if step.startswith("SCAN"))


def _forced(connection: Connection, statement: str, parameters: Any) -> set[str]:
    """Returns the tables that PostgreSQL could read only as a whole."""
    return plans.scanned_by_postgresql(connection, statement, parameters, forced=True)
