"""Every store reads its log for people: by each index as by a full scan, verified, in bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text

import store_vector
from builders import (
    NOW,
    a_cluster,
    a_region,
    a_rotation,
    an_event,
    applied,
    attempted,
    enabling,
)
from keyfold_server.domain.changes import Change, revoked, with_regions
from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.events import Event, EventQuery, LogMark, RootUse
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.log import Attempt, EntryKind, KeyName
from keyfold_server.domain.rights import Coverage
from keyfold_server.domain.transitions import Condition, Transition
from keyfold_server.store.sql.store import SqlStore

EVERY: Final = EventQuery(None, newest_first=False, limit=1_000)

WHOLE: Final = (Coverage(None, None),)


@pytest.fixture(params=store_vector.KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """A store with acme of organization a under local:one, beta of b, and lone under local:two."""
    with store_vector.a_place(request.param, tmp_path) as place:
        place.migrate()
        with closing(place.open()) as store:
            one, two = a_region("eu"), a_region("us", "local:two")
            applied(store, enabling(a_cluster("acme", [one, a_region("us")], organization="a")))
            applied(store, enabling(a_cluster("beta", [two], organization="b")))
            applied(store, enabling(a_cluster("lone", [a_region("eu", "local:two")])))
            attempted(store, "acme")
            store.attempted([Attempt("beta", replace(an_event(), caller="spiffe://x/bob"))])
            store.attempted([Attempt(None, replace(an_event(), organization="a"))])
            store.attempted([Attempt("new", an_event(outcome="KEY_DISABLED"), new=True)])
            for root, kek in ((ONE, None), (TWO, b"k" * 16), (ONE, b"k" * 16)):
                store.refused(root, seen(root, Health.KEY_DISABLED), "r", kek)
            good = seen(ONE, Health.HEALTHY)
            store.observe([good], [Transition(ONE, Condition.HEALTHY, Condition.REFUSED, good)])
            store.issue_external_id("org:a", "id", replace(an_event(), organization="a"))
            applied(store, Change("acme", revoked("acme", (), NOW), an_event()))
            yield store


ONE: Final = a_region().newest.current.root_id
TWO: Final = a_region("us", "local:two").newest.current.root_id


def seen(root: str, health: Health) -> Observation:
    """Makes an observation of a root key, with what its KMS said."""
    return Observation(f"root:{root}", health, NOW, NOW, message="it said so", request_id="kms-1")


def paged(store: SqlStore, query: EventQuery) -> list[Event]:
    """Reads every page of a query."""
    found: list[Event] = []
    while True:
        page = store.events(query)
        assert len(page.events) <= query.limit
        found += page.events
        if not page.more:
            return found
        query = replace(query, after=found[-1].number)


WAYS: Final[dict[str, tuple[EventQuery, Callable[[Event], bool]]]] = {
    "a cluster": (
        replace(EVERY, clusters=("acme",)),
        lambda e: e.cluster == "acme" or e.root == ONE,
    ),
    "a cluster that does not exist": (
        replace(EVERY, clusters=("new",)),
        lambda e: e.cluster == "new",
    ),
    "two clusters": (
        replace(EVERY, clusters=("lone", "beta")),
        lambda e: e.cluster in {"lone", "beta"} or e.root == TWO,
    ),
    "an organization": (
        replace(EVERY, organizations=("a",)),
        lambda e: e.organization == "a" or e.root == ONE,
    ),
    "a caller": (
        replace(EVERY, caller="spiffe://x/bob"),
        lambda e: e.caller == "spiffe://x/bob",
    ),
    "numbers": (replace(EVERY, first=3, last=9), lambda e: 3 <= e.number <= 9),
    "times": (replace(EVERY, start=0, end=1 << 60), lambda e: True),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_finds_what_a_full_scan_finds(store: SqlStore, way: str) -> None:
    """S12: an index finds each entry that a full scan finds, once, in pages of any size."""
    query, wanted = WAYS[way]
    every = paged(store, EVERY)
    numbers = [event.number for event in every if wanted(event)]
    assert numbers
    for limit in (1, 2, 3, 1_000):
        some = replace(query, limit=limit)
        assert [event.number for event in paged(store, some)] == numbers
        backwards = paged(store, replace(some, newest_first=True))
        assert [event.number for event in backwards] == numbers[::-1]


def test_what_a_root_key_is_called_stays(store: SqlStore) -> None:
    """A refusal and a transition name their root key, also once no wrap under it is left."""
    acme = store.cluster("acme")
    assert acme is not None
    moved = [a_rotation(region, "local:three") for region in acme.regions]
    applied(store, Change("acme", with_regions(acme, moved, NOW), an_event()))
    told = [event for event in paged(store, EVERY) if event.root == ONE]
    assert [event.kind for event in told] == [
        EntryKind.REFUSAL,
        EntryKind.REFUSAL,
        EntryKind.HEALTH,
    ]
    for event in told:
        assert event.key == KeyName("LOCAL", "local:one")
        assert (event.message, event.kms_request_id) == ("it said so", "kms-1")


def test_who_uses_a_root_key(store: SqlStore) -> None:
    """C7: a root key counts as used only in the clusters and regions that are covered."""

    def used(
        *covered: Coverage, cluster: str | None = None, organization: str | None = None
    ) -> str:
        found = store.roots_used([ONE, TWO, "ab"], RootUse(covered, cluster, organization))
        return ", ".join(name for name, root in (("one", ONE), ("two", TWO)) if root in found)

    assert used(*WHOLE) == "one, two"
    assert used(Coverage(("acme",), None)) == "one"
    assert used(Coverage(None, ("b*",))) == "two"
    assert used(Coverage(None, ("b",), ("eu",))) == ""
    assert used(Coverage(("be*",), ("b",), ("e*", "us"))) == "two"
    assert used(*WHOLE, cluster="lone") == used(*WHOLE, organization="b") == "two"
    assert used(*WHOLE, cluster="nobody") == used() == ""
    assert [store.organization_of(name) for name in ("acme", "lone", "nobody")] == ["a", None, None]


@pytest.mark.parametrize(
    ("edit", "number"),
    [
        ("UPDATE log SET caller = 'x' WHERE number = 4", 4),
        ("UPDATE log SET organization = 'b' WHERE number = 1", 1),
        ("UPDATE log SET detail = '{}', message = 'x' WHERE number = 8", 8),
        ("DELETE FROM log WHERE number = 5", 5),
        ("DELETE FROM log WHERE number = 13", 13),
        ("DELETE FROM log WHERE number = 1", 1),
        ("UPDATE log SET number = -3 WHERE number = 3", 3),
    ],
)
def test_an_edited_log_is_not_shown(store: SqlStore, edit: str, number: int) -> None:
    """A1, A3: a list refuses an entry that was changed or is missing, and names its number."""
    database, _ = store.parts
    database.write(lambda c: c.execute(text(edit)))
    for limit in (1, 4, 1_000):
        for newest_first in (False, True):
            with pytest.raises(RowNotAuthenticError, match=f"entry {number} of the log"):
                paged(store, replace(EVERY, limit=limit, newest_first=newest_first))
    check = store.check_log(None, 1_000)
    assert check.broken == number
    if check.last.number:
        assert check.last.number == number - 1


def test_a_walk_begins_after_what_was_pruned(store: SqlStore) -> None:
    """S11: a walk and a list begin after the checkpoint, and the walk says where that is."""
    before = store.check_log(None, 5)
    assert (before.pruned, before.first, before.last.number) == (0, 1, 5)
    end = max(event.time for event in paged(store, EVERY))
    store.prune(end + 10, -1_000)
    pruned = store.log_marks(()).pruned
    assert pruned.number > 5
    # What the walk had verified before is gone, and it goes on from the checkpoint.
    check = store.check_log(before.last, 1_000)
    assert (check.pruned, check.first) == (pruned.number, pruned.number + 1)
    assert check.complete
    assert paged(store, EVERY)[0].number == pruned.number + 1
    assert store.events(replace(EVERY, first=1, last=2)).events == []


def test_marks_are_what_a_chain_knows(store: SqlStore) -> None:
    """A3: the log's marks name entries by number, id and MAC, and leave out what it lacks."""
    marks = store.log_marks([1, 4, 99])
    assert set(marks.found) == {1, 4}
    assert marks.pruned == LogMark()
    newest = paged(store, EVERY)[-1]
    assert (marks.newest.number, marks.newest.entry_id) == (newest.number, newest.entry_id)
    assert store.check_log(marks.newest, 10).complete
    wrong = replace(marks.found[4], mac=marks.found[1].mac)
    assert store.check_log(wrong, 10).broken == 5
