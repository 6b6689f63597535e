"""The garbage collector never has much to look at, and nothing that leaves memory stays (W5)."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from fakes import FakeClock
from keyfold_server.service.garbage import FULL_EVERY, Garbage


class Thing:
    """An object that the collector looks at."""

    other: Thing | None = None


@pytest.fixture(autouse=True)
def _collector_as_it_was() -> Iterator[None]:
    """Lets the collector look at everything again, as other tests expect."""
    yield
    gc.unfreeze()


def pair() -> tuple[Thing, Thing]:
    """Returns two objects that refer to each other."""
    one, two = Thing(), Thing()
    one.other, two.other = two, one
    return one, two


async def test_what_lives_on_is_hidden_from_the_collector() -> None:
    """After a turn a full collection looks at none of the objects that existed before it."""
    garbage = Garbage(FakeClock())
    await garbage.turn()
    kept = [Thing() for _ in range(1_000)]
    await garbage.turn()
    looked_at = {id(each) for each in gc.get_objects()}
    assert not looked_at & {id(each) for each in kept}


async def test_what_is_dropped_is_freed_at_once() -> None:
    """An object that was hidden is freed when the last reference to it goes, without a turn."""
    garbage = Garbage(FakeClock())
    kept = Thing()
    await garbage.turn()
    gone = weakref.ref(kept)
    del kept
    assert gone() is None


async def test_young_cycles_are_collected_with_each_turn() -> None:
    """Garbage that came since the last turn is not hidden."""
    garbage = Garbage(FakeClock())
    await garbage.turn()
    gone = weakref.ref(pair()[0])
    await garbage.turn()
    assert gone() is None


async def test_cycles_in_use_at_a_turn_are_collected_within_an_hour() -> None:
    """A cycle that was hidden stays until the next full collection, and no longer."""
    clock = FakeClock()
    garbage = Garbage(clock)
    one, two = pair()
    await garbage.turn()
    gone = weakref.ref(one)
    del one, two
    clock.advance(FULL_EVERY - 1)
    await garbage.turn()
    assert gone() is not None
    clock.advance(1)
    await garbage.turn()
    assert gone() is None
