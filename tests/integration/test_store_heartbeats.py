"""Heartbeats at a predicted time: a replica sends the store's time with its poll (protocol S13).

Its clock and the store's are set apart here. Nobody may take the replica for silent for longer than
it is, since Revoke waits for no replica that has stopped (protocol R4).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest

import postgres
from builders import NOW
from fakes import FakeClock
from keyfold_server.domain.ports import SLOW_CLOCK, UNKNOWN_REPLICA, Heartbeat
from keyfold_server.store.sql.store import SqlStore

BEAT: Final = Heartbeat("one", 0, b"", 120.0, NOW)


class Bench:
    """A replica's store, whose process and whose server have a clock each."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        server = postgres.shared("15")
        name = server.borrow()
        stack.callback(server.give_back, name)
        self.theirs = postgres.DatabaseClock(server, name)
        self.ours = FakeClock()
        key = postgres.a_service_key(folder)
        self.store: SqlStore = stack.enter_context(closing(server.open(name, key, self.ours)))
        self.store.register(BEAT)

    def advance(self, seconds: float, *, ours: float | None = None) -> None:
        """Lets time pass: in the store, and in the process if that differs."""
        self.theirs.advance(seconds)
        self.ours.advance(seconds if ours is None else ours)

    def set_theirs(self, seconds: float) -> None:
        """Sets the store's clock, forward or back."""
        self.theirs.step_wall(seconds)
        self.theirs.set(self.theirs.wall())

    def silent(self) -> float:
        """Returns for how long the store takes the replica for silent."""
        [row] = [row for row in self.store.replicas() if row.replica == "one"]
        return row.silent_for


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Gives a registered replica's store."""
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def test_silence_counts_from_the_poll(bench: Bench) -> None:
    """R4: the store takes a replica for silent since its last poll began."""
    for seconds in (0.25, 1.0, 60.0):
        bench.advance(seconds)
        bench.store.poll(BEAT)
        assert bench.silent() == 0.0
        bench.advance(7.5)
        # What a slow clock may lose since the last answer counts for the replica.
        assert 7.5 - (seconds + 7.5) * SLOW_CLOCK - 0.001 <= bench.silent() <= 7.5


def test_a_slow_clock_makes_no_replica_silent(bench: Bench) -> None:
    """R4: a process whose clock loses a thousandth writes no heartbeat from before its poll."""
    bench.advance(100.0, ours=100.0 * (1 - SLOW_CLOCK))
    bench.store.poll(BEAT)
    assert bench.silent() <= 0.001


def test_a_late_answer_makes_no_replica_silent(bench: Bench) -> None:
    """R4: an answer that took a second to come counts from its question."""
    bench.store.poll(BEAT)
    # The store writes its time 0.9 s after the question, which is also the time of the heartbeat.
    bench.set_theirs(0.9)
    bench.store.poll(BEAT)
    bench.advance(30.0)
    bench.store.poll(BEAT)
    assert bench.silent() == 0.0


def test_a_heartbeat_follows_a_clock_that_is_set(bench: Bench) -> None:
    """R4: a poll after the store's clock was set counts once its heartbeat has the new time."""
    bench.store.poll(BEAT)
    bench.set_theirs(3600.0)
    bench.store.poll(BEAT)
    assert bench.silent() == 0.0
    assert UNKNOWN_REPLICA in {row.replica for row in bench.store.replicas()}
    bench.set_theirs(-7200.0)
    bench.store.poll(BEAT)
    bench.advance(5.0)
    # Not for two hours: then a replica that died now would be waited for so long.
    assert bench.silent() == 5.0
