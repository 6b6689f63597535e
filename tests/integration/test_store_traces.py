"""Nothing of an erased KEK is left in the files of an SQLite store (protocol D4)."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from builders import NOW, a_cluster, a_region, a_rotation, an_event, applied, enabling
from fakes import FakeClock
from keyfold_server.domain.changes import Change, deleted, revoked, with_regions
from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.erasure import Due, erased
from keyfold_server.store.database import engine, traces
from keyfold_server.store.opening import open_store
from keyfold_server.store.sql.store import SqlStore

PIECE: Final = 12
"""Bytes of a ciphertext that count as found. Two random ones have as many in common by no chance
that a test could meet."""

CLUSTERS: Final = 300


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Gives the path of a store."""
    return tmp_path / "keyfold.db"


def opened(file: Path) -> SqlStore:
    """Opens the store."""
    return open_store(f"sqlite:///{file}", file.with_name("key"), clock=FakeClock())


def found(file: Path, ciphertexts: Iterable[bytes]) -> list[tuple[str, str]]:
    """Returns the files with a piece of a ciphertext: in which of them, and of which it is."""
    contents = {
        path.name: path.read_bytes()
        for path in file.parent.iterdir()
        if path.name.startswith(file.name) and not path.name.endswith(".lock")
    }
    assert {file.name, f"{file.name}-wal"} <= contents.keys()
    # The pieces lie close together, so that no long part of a ciphertext lies between two.
    pieces = {
        secret[at : at + PIECE]: secret
        for secret in ciphertexts
        for at in range(0, len(secret) - PIECE + 1, PIECE // 2)
    }
    there = {
        (name, pieces[piece].hex())
        for name, content in contents.items()
        for at in range(len(content) - PIECE + 1)
        if (piece := content[at : at + PIECE]) in pieces
    }
    return sorted(there)


def ciphertexts(cluster: Cluster) -> Iterator[bytes]:
    """Yields the wrapped KEKs of a cluster."""
    for region in cluster.regions:
        for generation in region.generations:
            yield generation.current.ciphertext


def of_any_size(region: Region, chance: random.Random) -> Region:
    """Gives a region's KEK a ciphertext of some length, as providers do."""
    [generation] = region.generations
    wrap = replace(generation.current, ciphertext=chance.randbytes(chance.randrange(65, 1_500)))
    return replace(region, generations=(replace(generation, current=wrap),))


def fill(store: SqlStore, chance: random.Random) -> tuple[list[str], dict[str, set[bytes]]]:
    """Makes clusters, and rotates some meanwhile, so that SQLite moves rows between pages.

    Returns:
        The clusters' names, and all wrapped KEKs that each has ever had.
    """
    names: list[str] = []
    ever: dict[str, set[bytes]] = {}
    for _ in range(CLUSTERS):
        name = f"c-{chance.randrange(10**9)}"
        region = of_any_size(a_region(), chance)
        cluster = applied(store, enabling(a_cluster(name, [region]))).cluster
        names.append(name)
        ever[name] = set(ciphertexts(cluster))
        if chance.random() < 0.5:
            seen = store.cluster(chance.choice(names))
            assert seen is not None
            moved = [
                a_rotation(each, "local:two", fresh=chance.random() < 0.5) for each in seen.regions
            ]
            change = Change(seen.name, with_regions(seen, moved, NOW), an_event())
            ever[seen.name] |= set(ciphertexts(applied(store, change).cluster))
    return names, ever


def erase(store: SqlStore, name: str) -> None:
    """Revokes, deletes and erases a cluster."""
    applied(store, Change(name, revoked(name, (), NOW), an_event()))
    applied(store, Change(name, deleted(name, ["eu"], 0), an_event()))
    applied(store, Change(name, erased(Due(name, ("eu",)), 1 << 50), an_event()))


@pytest.mark.parametrize("seed", [0, 3])
def test_no_byte_of_an_erased_kek_is_left(file: Path, seed: int) -> None:
    """D4: no file of the store has a piece of any wrap that an erased KEK ever had.

    With seed 3 SQLite leaves a piece in its file in spite of secure_delete, until VACUUM.
    """
    chance = random.Random(seed)
    with closing(opened(file)) as store:
        names, ever = fill(store, chance)
        gone = chance.sample(names, 100)
        secrets = [each for name in gone for each in ever[name]]
        current = [each for name in gone for each in _of(store, name)]
        assert len({secret for _, secret in found(file, current)}) == len(current)
        for name in gone:
            erase(store, name)
        assert store.clear_traces()
        assert found(file, secrets) == []
        # The search finds what is there.
        kept = [each for n in names if n not in gone for each in _of(store, n)]
        assert len({secret for _, secret in found(file, kept)}) == len(kept)
    with closing(opened(file)) as store:
        assert len(list(_every(store, names))) == len(names) - len(gone)


def _of(store: SqlStore, name: str) -> Iterator[bytes]:
    cluster = store.cluster(name)
    return iter(()) if cluster is None else ciphertexts(cluster)


def _every(store: SqlStore, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if store.cluster(name) is not None)


def test_an_old_state_that_somebody_reads_is_waited_for(file: Path) -> None:
    """D4: while a backup reads the log of changes, its bytes stay, and the store says so."""
    with closing(opened(file)) as store:
        cluster = applied(store, enabling(a_cluster("acme"))).cluster
        secrets = list(ciphertexts(cluster))
        with closing(sqlite3.connect(file, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM wraps").fetchone()
            erase(store, "acme")
            assert not store.clear_traces()
            assert found(file, secrets)
            reader.execute("COMMIT")
        turn = store.erasure_turn(0)
        assert turn is not None
        assert turn.traces
        assert store.clear_traces()
        assert found(file, secrets) == []


def test_a_file_that_is_too_large_is_cleared_at_the_next_start(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R9, D4: a clearing that would keep Revoke waiting gives up, and a start makes up for it."""
    chance = random.Random(7)
    with closing(opened(file)) as store:
        names, ever = fill(store, chance)
        assert store.erasure_turn(0) is not None
        erase(store, names[0])
        monkeypatch.setattr(engine.Database.clear_traces, "__defaults__", (-1.0,))
        monkeypatch.setattr(traces, "_LOOKS", 1)
        assert not store.clear_traces()
        turn = store.erasure_turn(0)
        assert turn is not None
        assert turn.traces
        # It gave nothing up but the time.
        applied(store, Change(names[1], revoked(names[1], (), NOW), an_event()))
    with closing(opened(file)) as store:
        turn = store.erasure_turn(0)
        assert turn is not None
        assert not turn.traces
        applied(store, Change(names[2], revoked(names[2], (), NOW), an_event()))
        assert found(file, ever[names[0]]) == []
