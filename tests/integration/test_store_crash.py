"""A process that is killed at any point leaves everything of a mutation, or nothing."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import select

from builders import NOW
from chaos.benches import BENCHES, Bench, Sqlite
from chaos.crashes import POINTS, Crasher, Pictures, Storm, killed_at
from keyfold_server.store.schema import erasing
from keyfold_server.store.sql.failpoints import FAILPOINTS
from keyfold_server.store.sql.store import SqlStore
from store_crasher import LATE, USED, opened

STORMS = 12


@pytest.fixture(scope="module")
def crasher() -> Iterator[Crasher]:
    """Gives the program that forks and kills."""
    with Crasher() as made:
        yield made


@pytest.fixture(scope="module", params=BENCHES)
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """Gives each kind of store in turn."""
    made = BENCHES[request.param](tmp_path_factory.mktemp("bench"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def pictures(bench: Bench) -> Pictures:
    """Gives the store before and after each mutation that nothing interrupted."""
    return Pictures(bench)


@pytest.mark.parametrize(("kind", "mark"), POINTS)
def test_all_or_nothing(
    kind: str, mark: str, crasher: Crasher, bench: Bench, pictures: Pictures
) -> None:
    """S8: a process killed at any failpoint leaves all of a batch or nothing, and it verifies.

    Rows, audit chain, numbers and the recorded request stand or fall together (R6: a request is
    recorded if and only if it was carried out).
    """
    assert killed_at(crasher, bench, kind, mark) == pictures.expected(kind, mark)


def test_every_mark_is_tried(pictures: Pictures) -> None:
    """The tests try every failpoint, and each mutation shows in the picture or in `TOLD`."""
    assert {mark for _, mark in POINTS} == set(FAILPOINTS)
    kinds = {kind for kind, _ in POINTS}
    unseen = [kind for kind in kinds if pictures.after(kind) == pictures.before]
    # An issued id shows as its entry of the log; its value is in `TOLD`.
    assert set(unseen) == {"poll", *TOLD} - {"issue"}


def turns(store: SqlStore) -> tuple[bool, bool]:
    """Returns whether erasing is paused, and whether the traces of an erasure are cleared."""
    asked = select(erasing.c.resumes_at, erasing.c.cleared)
    resumes, cleared = store.parts[0].read(lambda c: tuple(c.execute(asked).one()))
    return resumes is not None, cleared > 0


TOLD: Final[dict[str, tuple[Callable[[SqlStore], object], object, object]]] = {
    "issue": (lambda store: store.external_id("acme"), None, "issued"),
    "use": (lambda store: store.seen((), [USED]).last_uses, {}, {USED: NOW}),
    "turn": (lambda store: turns(store)[0], False, True),
    "cleared": (lambda store: turns(store)[1], False, True),
}
"""Reads for the mutations that a picture does not show, with their results before and after."""


@pytest.mark.parametrize(("kind", "mark"), [point for point in POINTS if point[0] in TOLD])
def test_issued_and_used_or_not(kind: str, mark: str, crasher: Crasher, bench: Bench) -> None:
    """C2, S7: an external id or a last use is there if and only if its commit was."""
    tells, before, after = TOLD[kind]
    place = bench.fresh()
    if kind in LATE:
        bench.pass_time()
    assert crasher.kill(place, kind=kind, mark=mark) == signal.SIGKILL
    bench.settle()
    # Whoever opens a file clears it, so what a killed server left undone is done by now (D4).
    cleared = kind == "cleared" and isinstance(bench, Sqlite)
    with closing(opened(place)) as store:
        assert tells(store) == (after if cleared or mark.endswith(":after-commit") else before)


def test_killed_at_any_moment(crasher: Crasher, bench: Bench, tmp_path: Path) -> None:
    """R6, S8: under load from several clients, exactly the recorded requests were carried out.

    Each storm rages from its first answer on, so each has carried something out when it is killed.
    """
    times = random.Random(20_261)
    storm = Storm(crasher, bench, tmp_path)
    for _ in range(STORMS):
        assert not list(storm.strike(times.uniform(0.02, 0.15)))
    assert storm.done >= STORMS
