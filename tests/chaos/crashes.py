"""Stores whose mutations are killed, at each mark and at any moment, and what they hold then.

A kill costs milliseconds: `store_crasher` forks for each one, and the bench puts the store back.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Final, Self

import store_crasher
from audit_chain import verified_events
from builders import a_request, record_of
from chaos.benches import BENCHES, Bench, Picture, picture
from fakes import FakeClock
from keyfold_server.domain.changes import CommittedChange
from keyfold_server.store.sql.failpoints import FAILPOINTS
from store_crasher import Place

POINTS: Final = [
    (kind, mark)
    for kind in (*store_crasher.CHANGES, *store_crasher.OTHERS)
    for mark in FAILPOINTS
    if mark.startswith("apply:" if kind in store_crasher.CHANGES else f"{kind}:")
]
"""Every mutation, with each mark that it passes."""

CLIENTS: Final = 3
"""Clients of a storm."""

_AFRESH: Final = 40
"""Storms before the store is made anew: each check of a store reads all that they did."""


class Crasher:
    """The program that forks and kills; use it in a `with`."""

    def __enter__(self) -> Self:
        self._program = subprocess.Popen(
            [sys.executable, store_crasher.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait(10)
        self._program.stdout.close()

    def kill(self, place: Place, **order: str) -> int:
        """Kills a mutation and returns the signal that ended it."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps(asdict(place) | order) + "\n")
        self._program.stdin.flush()
        return int(self._program.stdout.readline())


class Pictures:
    """What a bench's store holds before and after each mutation, when nothing interrupts it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._after: dict[str, Picture] = {}
        self.before = picture(bench.fresh())

    def after(self, kind: str) -> Picture:
        """Returns what the store holds after a mutation."""
        if kind not in self._after:
            self._after[kind] = self._taken(kind)
        return self._after[kind]

    def _taken(self, kind: str) -> Picture:
        place = self._bench.fresh()
        clock = FakeClock()
        if kind in store_crasher.LATE:
            self._bench.pass_time()
            clock = FakeClock(store_crasher.LATER)
        with closing(store_crasher.opened(place, clock=clock)) as store:
            results = store_crasher.mutate(store, kind)
            assert all(isinstance(result, CommittedChange) for result in results)
        return picture(place)

    def expected(self, kind: str, mark: str) -> Picture:
        """Returns what the store must hold after a death at a mark: a whole mutation or nothing."""
        return self.after(kind) if mark.endswith(":after-commit") else self.before


def killed_at(crasher: Crasher, bench: Bench, kind: str, mark: str) -> Picture:
    """Kills a mutation at a mark and returns what the store then holds."""
    place = bench.fresh()
    if kind in store_crasher.LATE:
        bench.pass_time()
    ended = crasher.kill(place, kind=kind, mark=mark)
    assert ended == signal.SIGKILL, ended
    bench.settle()
    return picture(place)


class Storm:
    """Clients that change one cluster at once, in a process that is killed repeatedly."""

    def __init__(self, crasher: Crasher, bench: Bench, folder: Path) -> None:
        self._crasher = crasher
        self._bench = bench
        self._told = folder / "told"
        self._told.write_text("")
        self._place = bench.fresh()
        self._first = 0
        with closing(store_crasher.opened(self._place)) as store:
            found = store.cluster("acme")
            assert found is not None
            self._version = found.version
            # The entries that tell of nothing that a storm does.
            self._others = len(store.poll(store_crasher.BEAT)) - found.version
        self.done = 0

    def strike(self, seconds: float) -> Iterator[str]:
        """Lets the storm rage, kills it, and yields the faults in the store afterwards (R6, S8).

        Each answered change is recorded, and each recorded change was carried out once. A change
        that was under way may be there or not. Versions, chain and numbers agree.
        """
        self._told.write_text("")
        order = {"clients": str(CLIENTS), "first": str(self._first), "told": str(self._told)}
        ended = self._crasher.kill(self._place, kind="storm", seconds=str(seconds), **order)
        assert ended == signal.SIGKILL, ended
        self._bench.settle()
        lines = [line.split() for line in self._told.read_text().splitlines()]
        begun = [(int(line[1]), int(line[2])) for line in lines if line[0] == "begun"]
        answered = {(int(ln[1]), int(ln[2])): int(ln[3]) for ln in lines if ln[0] == "done"}
        with closing(store_crasher.opened(self._place)) as store:
            cluster = store.cluster("acme")
            assert cluster is not None
            recorded = {}
            for one in begun:
                found = record_of(store, a_request("acme", store_crasher.storm_id(*one)))
                if found is not None:
                    recorded[one] = found.version
            if any(recorded.get(one) != version for one, version in answered.items()):
                yield f"answered {answered}, recorded {recorded}"
            made = sorted(recorded.values())
            if made != list(range(self._version + 1, cluster.version + 1)):
                yield f"from {self._version} to {cluster.version} by {made}"
            events = verified_events(store, "acme")
            if events != cluster.version:
                yield f"{events} events of {cluster.version} changes"
            numbers = [noted.number for noted in store.poll(store_crasher.BEAT)]
            if numbers != list(range(1, cluster.version + self._others + 1)):
                yield f"{cluster.version} changes with the numbers {numbers}"
        self.done += len(recorded)
        self._version = cluster.version
        self._first = max((number for _, number in begun), default=self._first) + 1


def crash(kind: str, kills: int, seed: int) -> tuple[int, list[str]]:
    """Kills mutations of a store, half of them at marks, half at any moment.

    Returns:
        The number of kills, and the faults found.
    """
    draw = random.Random(seed)
    found = []
    with tempfile.TemporaryDirectory(prefix="keyfold-crash-") as name, Crasher() as crasher:
        bench = BENCHES[kind](Path(name))
        try:
            pictures = Pictures(bench)
            turns = (draw.sample(POINTS, len(POINTS)) for _ in itertools.count())
            points = itertools.chain.from_iterable(turns)
            for mutation, mark in itertools.islice(points, kills // 2):
                told = killed_at(crasher, bench, mutation, mark)
                if told != pictures.expected(mutation, mark):
                    found.append(f"{mutation} killed at {mark}: {told}")
            storm = Storm(crasher, bench, Path(name))
            for number in range(1, kills - kills // 2 + 1):
                found += storm.strike(draw.uniform(0.005, 0.08))
                if number % _AFRESH == 0:
                    storm = Storm(crasher, bench, Path(name))
        finally:
            bench.close()
    return kills, found
