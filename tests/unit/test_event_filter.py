"""The filter of ListEvents, for any rights, against a scan of the whole log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Final, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, a_cluster, a_region, an_event, applied, attempted, enabling
from fakes import FakeClock
from keyfold_server.access.policy.grants import Grant, Role
from keyfold_server.access.policy.rights import GrantedRights
from keyfold_server.domain.changes import Change, revoked
from keyfold_server.domain.events import Event, EventFilter, EventQuery
from keyfold_server.domain.health import Health, Observation
from keyfold_server.domain.log import Attempt, EntryKind
from keyfold_server.domain.patterns import Pattern, Patterns
from keyfold_server.domain.rights import Identity
from keyfold_server.service.events.listing import Events
from keyfold_server.service.storage import Storage
from keyfold_server.store.opening import open_store
from keyfold_server.store.sql.store import SqlStore

_RPC: Final = "ListEvents"

CLUSTERS: Final = {
    "acme": ("a", {"eu": "local:one", "us": "local:one"}),
    "acme2": ("a", {"eu": "local:two"}),
    "beta": ("b", {"eu": "local:two", "us": "local:three"}),
    "lone": (None, {"us": "local:one"}),
}
"""The organization and the root keys of the regions of each cluster."""


def root_of(uri: str) -> str:
    """Returns the root key id of a key's first version."""
    return a_region("eu", uri).newest.current.root_id


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SqlStore, list[Event]]]:
    """A store with a log of every sort of entry, and the log."""
    clock = FakeClock()
    folder = tmp_path_factory.mktemp("events")
    made = open_store(f"sqlite:///{folder / 'store.db'}", folder / "key", clock=clock)
    with closing(made) as store:
        for name, (organization, keys) in CLUSTERS.items():
            regions = [a_region(region, uri) for region, uri in keys.items()]
            applied(store, enabling(a_cluster(name, regions, organization=organization)))
            clock.advance(10)
        for number, name in enumerate(list(CLUSTERS) * 3):
            clock.advance(1)
            caller = f"spiffe://x/{number % 2}"
            event = replace(an_event(outcome="KEY_DISABLED"), caller=caller, request_id=f"{number}")
            store.attempted([Attempt(name, event)])
            attempted(store, name, "rpc:cluster:rotate", "validated")
            some = list(CLUSTERS[name][1])[: number % 2]
            applied(store, Change(name, revoked(name, some, NOW), an_event()))
        for uri in ("local:one", "local:two", "local:three"):
            for kek in (None, b"k" * 16):
                observed = Observation(f"root:{root_of(uri)}", Health.KEY_DISABLED, NOW, NOW)
                store.refused(root_of(uri), observed, "r", kek)
        store.attempted(
            [Attempt(None, replace(an_event(), organization="a")), Attempt(None, an_event())]
        )
        every = store.events(EventQuery(None, newest_first=False, limit=1_000)).events
        yield store, every


T = TypeVar("T")

_PATTERNS: Final = st.sampled_from(
    ["*", "a*", "acme", "*e*", "beta", "b", "a", "eu", "*u*", "nope"]
)


def _seldom(values: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    """Draws None most of the time, so that most filters and grants leave something to show."""
    return st.integers(0, 3).flatmap(lambda chance: values if chance == 0 else st.none())


def _patterns() -> st.SearchStrategy[Patterns | None]:
    some = st.lists(_PATTERNS, min_size=1, max_size=2)
    return _seldom(some.map(lambda texts: Patterns(tuple(map(Pattern, texts)))))


_GRANT: Final = st.builds(
    Grant,
    st.just("here"),
    st.just(Patterns((Pattern("*"),))),
    st.sampled_from([frozenset([Role.AUDITOR]), frozenset(Role), frozenset([Role.OPERATOR])]),
    _patterns(),
    _patterns(),
    _patterns(),
)

_TIMES: Final = _seldom(st.integers(NOW - 5_000, NOW + 60_000))
_NUMBERS: Final = st.integers(0, 60)

_FILTER: Final = st.builds(
    EventFilter,
    cluster=_seldom(st.sampled_from([*CLUSTERS, "nope"])),
    organization=_seldom(st.sampled_from(["a", "b", "nope"])),
    key_uri=_seldom(st.sampled_from(["local:one", "local:two"])),
    caller=_seldom(st.sampled_from(["local", "spiffe://x/1"])),
    kinds=_seldom(st.frozensets(st.sampled_from(EntryKind), max_size=3)).map(
        lambda kinds: kinds or frozenset()
    ),
    outcome=_seldom(st.sampled_from(["done", "KEY_DISABLED"])),
    only_refused=st.integers(0, 3).map(lambda chance: chance == 0),
    start=_TIMES,
    end=_TIMES,
    action=_seldom(st.sampled_from(["rpc:cluster:rotate"])),
    first=_seldom(_NUMBERS).map(lambda number: number or 0),
    last=_seldom(_NUMBERS),
)


def _wanted(every: list[Event], which: EventFilter, rights: GrantedRights) -> list[int]:
    """Returns the numbers of the events to show, by a scan that knows no index."""

    def placed(event: Event) -> bool:
        """Says whether a root key's event concerns the clusters of the filter, for this caller."""
        return any(
            event.root == root_of(uri)
            and rights.covers(_RPC, name, organization, region)
            and which.cluster in (None, name)
            and which.organization in (None, organization)
            for name, (organization, keys) in CLUSTERS.items()
            for region, uri in keys.items()
        )

    def shown(event: Event) -> bool:
        named = which.cluster is not None or which.organization is not None
        if event.root is not None and (named or not rights.covers(_RPC, None, None)):
            return placed(event) and which.selects(event, by_root=True)
        if not which.selects(event, by_root=False):
            return False
        if event.cluster is None or not event.regions:
            return rights.covers(_RPC, event.cluster, event.organization)
        return any(
            rights.covers(_RPC, event.cluster, event.organization, region)
            for region in event.regions
        )

    return [event.number for event in every if shown(event)]


async def _listed(
    store: SqlStore, which: EventFilter, rights: GrantedRights, size: int, *, newest_first: bool
) -> list[int]:
    storage = Storage(store)
    events = Events(storage, FakeClock(), check_fresh=lambda _: None)
    numbers: list[int] = []
    token = ""
    while True:
        page = await events.page(rights, which, size, token, newest_first=newest_first)
        numbers += [each.event.number for each in page.events]
        token = page.next_token
        if not token:
            storage.close()
            return numbers


@settings(max_examples=200)
@given(
    which=_FILTER,
    grants=st.lists(_GRANT, min_size=1, max_size=2),
    size=st.sampled_from([1, 3, 100]),
    newest_first=st.booleans(),
)
def test_a_list_is_what_a_scan_finds(
    store: tuple[SqlStore, list[Event]],
    which: EventFilter,
    grants: list[Grant],
    size: int,
    newest_first: bool,  # noqa: FBT001
) -> None:
    """C7: whatever the filter, rights, page and order, a list shows what a scan finds."""
    opened, every = store
    rights = GrantedRights(Identity(("local",), "loopback"), grants)
    wanted = _wanted(every, which, rights)
    found = asyncio.run(_listed(opened, which, rights, size, newest_first=newest_first))
    assert found == (wanted[::-1] if newest_first else wanted)
