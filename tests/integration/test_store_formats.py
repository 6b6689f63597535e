"""The bytes under MACs, the rows of a store, and its export are those of the vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import store_vector
from builders import NOW
from fakes import FakeClock
from keyfold_server.domain.lifecycle import State
from keyfold_server.store.transfer import archive, export, import_
from store_vector import EXPORT, Place, everything, exported


@pytest.fixture(params=store_vector.KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Gives an empty store of each kind in turn, with this release's schema."""
    with store_vector.a_place(request.param, tmp_path) as made:
        made.migrate()
        yield made


def test_the_rows_verify(place: Place, tmp_path: Path) -> None:
    """A1: every row that the vector holds carries the MAC that this code would give it."""
    store_vector.write(place)
    with closing(place.open()) as store:
        assert store.parts[0].read(store_vector.stored) == store_vector.values()
        store_vector.check(store, tmp_path / "service.key")


def test_the_export_is_the_same_to_the_byte(place: Place, tmp_path: Path) -> None:
    """A4: what this code exports of the vector's store is the vector's export."""
    store_vector.write(place)
    file = tmp_path / "export.jsonl"
    with ExitStack() as stack:
        out = stack.enter_context(archive.new_file(file))
        store = stack.enter_context(closing(place.open()))
        source = stack.enter_context(export.opened(store))
        export.write(source, out, cluster=None, now=NOW)
    assert file.read_bytes() == EXPORT.read_bytes()


def test_the_export_is_imported(place: Place, tmp_path: Path) -> None:
    """A4: the vector's export is imported whole, every region REVOKED."""
    key = tmp_path / "service.key"
    with (
        archive.verified(EXPORT, archive.seal_of(key)) as verified,
        closing(place.open()) as store,
    ):
        done = import_.bring_in(store, verified, FakeClock(NOW / 1000))
        found = everything(store)
    assert (done.clusters, done.entries) == (3, 10)
    was = exported(key)
    assert {name: events for name, (_, events) in found.items()} == {
        name: events + 1 for name, (_, events) in was.items()
    }
    for name, (cluster, _) in found.items():
        assert {region.state for region in cluster.regions} == {State.REVOKED}
        for region, before in zip(cluster.regions, was[name][0].regions, strict=True):
            assert region.policy == before.policy
            assert region.generations == before.generations
