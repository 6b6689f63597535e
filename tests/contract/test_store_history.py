"""Every store prunes the history of superseded wraps, and notices who else does (A2, C6, S11)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.sql.expression import Executable

from audit_chain import verified_events
from builders import NOW, a_cluster, a_region, a_rotation, an_event, applied, enabled, enabling
from contract.test_store import EVERY_TEST, STORES, Bench
from fakes import FakeClock
from keyfold_server.domain.bans import Ban
from keyfold_server.domain.changes import Change, with_regions
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import RowNotAuthenticError
from keyfold_server.domain.events import EventQuery
from keyfold_server.domain.log import EntryKind
from keyfold_server.domain.ports import Heartbeat
from keyfold_server.store.blessing import bless, look
from keyfold_server.store.opening import open_store
from keyfold_server.store.schema import Cells, clusters, history_checkpoints, wrap_history
from keyfold_server.store.sql.store import SqlStore
from keyfold_server.store.tables import history_pruning
from keyfold_server.store.transfer import archive, export, import_, return_

DAY: Final = 86_400.0
KEPT: Final = 30 * 86_400_000
"""Milliseconds for which the tests keep superseded wraps."""


@pytest.fixture(params=EVERY_TEST)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Gives each kind of store in turn."""
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(bench: Bench) -> Iterator[SqlStore]:
    """Gives a new store."""
    with closing(bench.open()) as opened:
        yield opened


@pytest.fixture
def clock(bench: Bench) -> FakeClock:
    """Gives the store's time."""
    return bench.clock


def rotate(store: SqlStore, name: str, uri: str, *regions: str) -> Cluster:
    """Moves regions of a cluster, or all of them, to another root key."""
    seen = store.cluster(name)
    assert seen is not None
    chosen = [r for r in seen.regions if not regions or r.name in regions]
    moved = [a_rotation(region, uri) for region in chosen]
    return applied(store, Change(name, with_regions(seen, moved, NOW), an_event())).cluster


def prune(store: SqlStore, clock: FakeClock) -> list[str]:
    """Prunes as upkeep does, with 30 days of backups."""
    return store.prune_history(int(clock.wall() * 1000), KEPT)


def uris(store: SqlStore, name: str) -> list[str]:
    """Reads the root keys of a cluster's superseded wraps, oldest first."""
    return [old.root.uri for old in store.superseded_wraps(name)]


def pruned(store: SqlStore) -> list[tuple[int, int]]:
    """Reads what the log says of prunings: how many wraps, and superseded until when."""
    page = store.events(EventQuery(None, newest_first=False, limit=1_000))
    told = [e for e in page.events if e.action == "store:history:prune"]
    assert {(e.kind, e.outcome, e.cluster) for e in told} <= {(EntryKind.PRUNING, "done", None)}
    return [(e.request["count"], e.request["through"]) for e in told]


def at(clock: FakeClock) -> int:
    """Returns the time in milliseconds."""
    return int(clock.wall() * 1000)


def test_wraps_go_when_no_backup_needs_them(store: SqlStore, clock: FakeClock) -> None:
    """C6: a superseded wrap stays for as long as backups do, and not longer; the log says so."""
    enabled(store)
    gone_at = []
    for number in range(4):
        clock.advance(10 * DAY)
        rotate(store, "acme", f"local:{number}")
        gone_at.append(at(clock))
    assert prune(store, clock) == []
    # One that was superseded exactly as long ago as backups are kept is in none of them any more,
    # and goes with the next turn.
    assert uris(store, "acme") == ["local:one", "local:0", "local:1", "local:2"]
    clock.advance(0.001)
    assert prune(store, clock) == []
    assert uris(store, "acme") == ["local:0", "local:1", "local:2"]
    clock.advance(100 * DAY)
    assert prune(store, clock) == []
    assert uris(store, "acme") == []
    assert pruned(store) == [(1, gone_at[0]), (3, gone_at[3])]
    assert verified_events(store, "acme") == 5


def test_a_turn_with_nothing_to_prune_leaves_no_entry(store: SqlStore, clock: FakeClock) -> None:
    """S0: the log holds what happened; nothing did."""
    enabled(store)
    rotate(store, "acme", "local:two")
    before = store.events(EventQuery(None, newest_first=True, limit=10))
    assert prune(store, clock) == []
    assert store.events(EventQuery(None, newest_first=True, limit=10)) == before


def test_pruning_changes_no_cluster(store: SqlStore, clock: FakeClock) -> None:
    """S10: a cluster's own row changes only with a decision, and pruning is none.

    So no replica drops a key because of it, and no change that was being made loses its turn.
    """
    store.register(Heartbeat("one", 0, b"", 120.0, NOW))
    enabled(store)
    seen = rotate(store, "acme", "local:two")
    with store.parts[0].engine.connect() as connection:
        before = connection.execute(select(clusters)).all()
    clock.advance(31 * DAY)
    prune(store, clock)
    with store.parts[0].engine.connect() as connection:
        assert connection.execute(select(clusters)).all() == before
    assert store.cluster("acme") == seen
    *_, entry = store.poll(Heartbeat("one", 0, b"", 120.0, NOW))
    assert (entry.kind, entry.is_news, entry.floor) == (EntryKind.PRUNING, False, None)
    # A change that was prepared before the pruning still commits.
    moved = [a_rotation(region, "local:three") for region in seen.regions]
    applied(store, Change("acme", with_regions(seen, moved, NOW), an_event()))
    assert uris(store, "acme") == ["local:two"]


def test_pruning_goes_in_parts(
    store: SqlStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S11: however much goes, no transaction holds the store for long; each has one entry."""
    monkeypatch.setattr(history_pruning, "_CLUSTERS", 2)
    monkeypatch.setattr(history_pruning, "_ROWS", 3)
    names = [f"c-{number}" for number in range(5)]
    for name in names:
        applied(store, enabling(a_cluster(name, [a_region("eu"), a_region("us")])))
    for number in range(4):
        for name in names:
            rotate(store, name, f"local:{number}")
            clock.advance(1.0)
    clock.advance(31 * DAY)
    for name in names:
        rotate(store, name, "local:last")
    assert prune(store, clock) == []
    counts = [count for count, _ in pruned(store)]
    assert sum(counts) == 5 * 2 * 4
    assert max(counts) <= 6
    for name in names:
        assert uris(store, name) == ["local:3", "local:3"]
    assert prune(store, clock) == []
    assert sum(count for count, _ in pruned(store)) == sum(counts)


def test_a_wrap_stays_as_long_as_one_before_it(store: SqlStore, clock: FakeClock) -> None:
    """D3, C6: a clock that was ahead for a while makes wraps stay longer, and loses none."""
    enabled(store)
    clock.advance(20 * DAY)
    rotate(store, "acme", "local:ahead")
    clock.advance(-20 * DAY)
    rotate(store, "acme", "local:right")
    clock.advance(31 * DAY)
    assert prune(store, clock) == []
    assert uris(store, "acme") == ["local:one", "local:ahead"]
    clock.advance(20 * DAY)
    assert prune(store, clock) == []
    assert uris(store, "acme") == []


def test_the_stores_clock_limits_pruning(store: SqlStore, clock: FakeClock) -> None:
    """C6: a replica whose clock is ahead removes nothing early."""
    enabled(store)
    rotate(store, "acme", "local:two")
    assert store.prune_history(at(clock) + 2 * KEPT, KEPT) == []
    assert uris(store, "acme") == ["local:one"]


def test_replicas_prune_at_once_while_others_rotate(store: SqlStore, clock: FakeClock) -> None:
    """S8, S11: whoever comes first removes a wrap, once; no rotation is lost or held up."""
    names = [f"c-{number}" for number in range(6)]
    for name in names:
        enabled(store, name)
        for number in range(4):
            rotate(store, name, f"local:{number}")
    clock.advance(31 * DAY)

    def rotations(name: str) -> None:
        for number in range(4):
            rotate(store, name, f"local:late-{number}")

    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(rotations, name) for name in names]
        pruning = [pool.submit(prune, store, clock) for _ in range(4)]
        for done in waiting:
            done.result()
        assert [done.result() for done in pruning] == [[]] * 4
    assert prune(store, clock) == []
    assert sum(count for count, _ in pruned(store)) == 6 * 4
    for name in names:
        assert uris(store, name) == ["local:3", "local:late-0", "local:late-1", "local:late-2"]


_COLUMNS: Final = wrap_history.columns.keys()


def _edited(store: SqlStore, *edits: Executable) -> None:
    """Edits the store behind Keyfold's back."""
    database, _ = store.parts
    for edit in edits:
        database.write(partial(Connection.execute, statement=edit))


def _rows(store: SqlStore) -> list[Cells]:
    with store.parts[0].engine.connect() as connection:
        found = connection.execute(select(wrap_history).order_by(wrap_history.c.number))
        return [tuple(row) for row in found]


def _checkpoint(store: SqlStore) -> Cells:
    with store.parts[0].engine.connect() as connection:
        return tuple(connection.execute(select(history_checkpoints)).one())


def _back(rows: list[Cells]) -> Executable:
    return insert(wrap_history).values([dict(zip(_COLUMNS, row, strict=True)) for row in rows])


def _half_pruned(store: SqlStore, clock: FakeClock) -> tuple[list[Cells], Cells]:
    """Makes a history of four, and prunes it twice, to one.

    Returns:
        The rows from before, and the checkpoint of the first pruning.
    """
    enabled(store)
    for number in range(4):
        rotate(store, "acme", f"local:{number}")
        clock.advance(10 * DAY)
    rows = _rows(store)
    clock.advance(-5 * DAY)
    assert prune(store, clock) == []
    assert len(_rows(store)) == 3
    early = _checkpoint(store)
    clock.advance(20 * DAY)
    assert prune(store, clock) == []
    assert len(_rows(store)) == 1
    return rows, early


EDITS: Final[dict[str, Callable[[list[Cells], Cells], list[Executable]]]] = {
    "the last row is gone": lambda rows, early: [delete(wrap_history)],
    "everything is gone": lambda rows, early: [
        delete(wrap_history),
        delete(history_checkpoints),
    ],
    "the checkpoint is gone": lambda rows, early: [delete(history_checkpoints)],
    "a row that was pruned is back": lambda rows, early: [_back(rows[2:3])],
    "all rows that were pruned are back": lambda rows, early: [_back(rows[:3])],
    "an old checkpoint is back": lambda rows, early: [
        update(history_checkpoints).values(
            dict(zip(history_checkpoints.columns.keys(), early, strict=True))
        )
    ],
    "the checkpoint names another number": lambda rows, early: [
        update(history_checkpoints).values(number=2)
    ],
    "the checkpoint names another row": lambda rows, early: [
        update(history_checkpoints).values(history_mac=rows[1][-1])
    ],
    "a row is changed": lambda rows, early: [update(wrap_history).values(root_uri="local:other")],
    "the history seems new": lambda rows, early: [
        update(wrap_history).values(number=1, prev=b""),
        delete(history_checkpoints),
    ],
}
"""What somebody does to a history of four that was pruned to one."""


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_history_is_noticed_after_pruning(
    store: SqlStore, clock: FakeClock, edit: str
) -> None:
    """A2: a row that was removed, changed or added shows wherever the history is read."""
    rows, early = _half_pruned(store, clock)
    _edited(store, *EDITS[edit](rows, early))
    with pytest.raises(RowNotAuthenticError):
        store.superseded_wraps("acme")
    with pytest.raises(RowNotAuthenticError):
        verified_events(store, "acme")
    assert store.cluster("acme") is not None


def test_an_old_history_that_is_put_back_says_too_much_and_goes_again(
    store: SqlStore, clock: FakeClock
) -> None:
    """A2, C6: with the checkpoint of that time all rows are Keyfold's own, and none is missing.

    So no root key that a backup needs is left out. The next pruning removes the rows again.
    """
    rows, early = _half_pruned(store, clock)
    put_back = EDITS["an old checkpoint is back"](rows, early)
    _edited(store, *put_back, _back(rows[1:3]))
    assert uris(store, "acme") == ["local:0", "local:1", "local:2"]
    assert prune(store, clock) == []
    assert uris(store, "acme") == ["local:2"]


@pytest.mark.parametrize(
    "edit",
    [
        update(wrap_history).where(wrap_history.c.number == 1).values(root_uri="local:other"),
        update(wrap_history).where(wrap_history.c.number == 2).values(superseded_at=1),
        delete(wrap_history).where(wrap_history.c.number == 1),
    ],
)
def test_an_edited_history_is_not_pruned(
    store: SqlStore, clock: FakeClock, edit: Executable
) -> None:
    """S11: whoever edits a row cannot wait until it is gone; the other histories are pruned."""
    for name in ("acme", "other"):
        enabled(store, name)
        for number in range(3):
            rotate(store, name, f"local:{number}")
    uid = select(clusters.c.uid).where(clusters.c.name == "acme").scalar_subquery()
    _edited(store, edit.where(wrap_history.c.cluster_uid == uid))  # type: ignore[attr-defined]
    left = [row for row in _rows(store) if row[0] == _uid(store, "acme")]
    clock.advance(31 * DAY)
    for _ in range(2):
        assert prune(store, clock) == ["acme"]
    assert _rows(store) == left
    assert uris(store, "other") == []


def _uid(store: SqlStore, name: str) -> bytes:
    found = store.cluster(name)
    assert found is not None
    return found.uid


@pytest.mark.parametrize("known", [True, False])
def test_an_export_holds_a_pruned_history(
    store: SqlStore, clock: FakeClock, tmp_path: Path, *, known: bool
) -> None:
    """A4, C6: an export says where a history begins, and an import goes on from there."""
    _half_pruned(store, clock)
    rotate(store, "acme", "local:newest")
    file = tmp_path / "export.jsonl"
    with archive.new_file(file) as out, export.opened(store) as source:
        export.write(source, out, cluster=None, now=NOW)
    assert b'"pruned_wraps":{"number":3,' in file.read_bytes()
    with ExitStack() as stack:
        there, key = FakeClock(clock.wall()), tmp_path / ("service.key" if known else "new.key")
        url = f"sqlite:///{tmp_path / 'there.db'}"
        into = stack.enter_context(closing(open_store(url, key, clock=there, takes_key=True)))
        seal = archive.seal_of(tmp_path / "service.key")
        verified = stack.enter_context(archive.verified(file, seal))
        import_.bring_in(into, verified, there)
        assert uris(into, "acme") == ["local:2", "local:3"]
        assert verified_events(into, "acme") == verified_events(store, "acme") + 1
        there.advance(60 * DAY)
        assert prune(into, there) == []
        assert uris(into, "acme") == []


def test_an_export_with_a_pruned_history_brings_a_cluster_back(
    store: SqlStore, clock: FakeClock, tmp_path: Path
) -> None:
    """A6, C6: a banned cluster comes back with its history from the checkpoint on."""
    _half_pruned(store, clock)
    file = tmp_path / "export.jsonl"
    with archive.new_file(file) as out, export.opened(store) as source:
        export.write(source, out, cluster="acme", now=NOW)
    _edited(store, update(clusters).values(epoch=77))
    store.ban(Ban("acme", an_event("rpc:cluster:revoke")))
    with archive.verified(file, archive.seal_of(tmp_path / "service.key")) as verified:
        return_.bring_back(store, verified, "acme", clock)
    assert uris(store, "acme") == ["local:2"]
    clock.advance(60 * DAY)
    assert prune(store, clock) == []
    assert uris(store, "acme") == []


def test_a_blessing_begins_a_new_chain(store: SqlStore, clock: FakeClock) -> None:
    """A1, C6: rows that an operator seals as they stand have no history before them."""
    _half_pruned(store, clock)
    _edited(store, update(history_checkpoints).values(history_mac=b"x" * 32))
    seen = look(store, "acme")
    assert any(text.startswith("history_checkpoints ") for text in seen.differences)
    bless(store, seen, "a drill", clock)
    assert uris(store, "acme") == ["local:2"]
    with store.parts[0].engine.connect() as connection:
        assert connection.execute(select(history_checkpoints)).all() == []


def test_a_blessing_seals_no_history_with_a_gap(store: SqlStore, clock: FakeClock) -> None:
    """A1: without the checkpoint, nobody can say that no row is missing."""
    _half_pruned(store, clock)
    _edited(store, delete(history_checkpoints))
    assert "a row is missing" in look(store, "acme").shapeless


@pytest.mark.parametrize("seed", range(3))
def test_a_history_is_what_a_model_says(store: SqlStore, clock: FakeClock, seed: int) -> None:
    """C6: after any rotations, prunings and days, exactly what backups may need is left."""
    chance = random.Random(seed)
    names = ["a", "b", "c"]
    model: dict[str, list[tuple[str, int]]] = {name: [] for name in names}
    now: dict[tuple[str, str], str] = {}
    for name in names:
        applied(store, enabling(a_cluster(name, [a_region("eu"), a_region("us")])))
        now |= {(name, "eu"): "local:one", (name, "us"): "local:one"}
    for step in range(60):
        match chance.choice(["rotate", "rotate", "wait", "prune"]):
            case "rotate":
                name, region = chance.choice(names), chance.choice(["eu", "us"])
                rotate(store, name, f"local:{step}", region)
                model[name].append((now[name, region], at(clock)))
                now[name, region] = f"local:{step}"
            case "wait":
                clock.advance(chance.choice([1.0, 3 * DAY, 12 * DAY, 40 * DAY]))
            case "prune":
                assert prune(store, clock) == []
                before = at(clock) - KEPT
                model = {n: [o for o in olds if o[1] >= before] for n, olds in model.items()}
        for name in names:
            assert uris(store, name) == [uri for uri, _ in model[name]]
