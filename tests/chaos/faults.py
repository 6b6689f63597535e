"""Faults: kills, pauses and cuts off servers, holds and crashes the store, disables keys.

It runs in the thread that made the system: a PostgreSQL server ends with the thread that began it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from chaos.banning import ban
from chaos.board import TWINS_KEY
from chaos.failover import fail_over_lagging, fail_over_synchronous
from chaos.fleet import LAGGING, STALENESS, Fleet
from chaos.history import History, now
from chaos.overtaking import disabled, overtake
from chaos.servers import ChaosServer
from chaos.spreading import spread

REVIVE: Final = 0.6
"""Chance that a server which starts again dies at a mark of the store's mutations."""

PAST: Final = 0.8
"""Seconds for which a store is held beyond what a replica may go without it."""

_FIRST: Final = ("rotate", "twins", "overtake", "ban", "hold", "keys", "kill", "cut")
"""Faults that every run begins with, if its plan has them."""


class Faults:
    """Causes faults one after the other and notes each in the history."""

    def __init__(
        self, fleet: Fleet, history: History, seed: int, only: tuple[str, ...] = ()
    ) -> None:
        """Takes the system and the choice of faults.

        Args:
            fleet: The servers, their store and their keys.
            history: The history that receives the events.
            seed: Seed of the draws of faults.
            only: Names of the faults to choose from; empty means all.
        """
        self._fleet = fleet
        self._history = history
        self._random = random.Random(seed)
        self._hurried = False
        self.kills = 0
        kinds: dict[str, tuple[float, Callable[[], None]]] = {
            "kill": (5, self._kill),
            "pause": (2, self._pause),
            "twins": (3, self._disable_twins),
            "overtake": (2, self._overtake),
            "ban": (1, self._ban),
            "disable": (2, self._disable),
            "rotate": (2, self._rotate),
            "keys": (1.5, self._take_keys_away),
        }
        if fleet.pair is None:
            kinds["hold"] = (1, self._hold_store)
        if fleet.database is not None:
            kinds["cut"] = (1, self._cut_off)
        if fleet.database is not None and fleet.pair is None:
            kinds |= {"crash": (2, self._crash_store), "pause-long": (1.5, self._pause_long)}
        self._kinds = [kind for name, kind in kinds.items() if not only or name in only]
        self._first = [] if only else [kinds[name][1] for name in _FIRST if name in kinds]

    def run(self, seconds: float, kills: int) -> None:
        """Causes faults for a while, and then until so many servers were killed.

        A store that can fail over does so in the middle; after a lagging standby the run ends.
        """
        self._hurried = kills > 0
        self._calm(0.7)
        if self._fleet.pair is None:
            self._some_of(seconds, kills)
        else:
            self._some_of(seconds / 2, 0)
            if self._fleet.kind == LAGGING:
                fail_over_lagging(self._fleet, self._history, self._random)
                return
            fail_over_synchronous(self._fleet, self._history, self._random)
            self._some_of(seconds / 2, 0)
        self._fleet.revive(0.0)

    def _some_of(self, seconds: float, kills: int) -> None:
        ends = now() + seconds
        while now() < ends or self.kills + self._fleet.deaths < kills:
            if self._first and not self._hurried:
                self._first.pop(0)()
            else:
                weights = [weight for weight, _ in self._kinds]
                [(_, fault)] = self._random.choices(self._kinds, weights)
                fault()
            self._calm(self._random.uniform(0.05, 0.2 if self._hurried else 0.5))

    def _calm(self, seconds: float) -> None:
        ends = now() + seconds
        while now() < ends:
            time.sleep(0.02)
            self._fleet.revive(REVIVE)

    def _some(self) -> ChaosServer:
        return self._random.choice(self._fleet.servers)

    def _kill(self) -> None:
        servers = self._fleet.servers
        for server in self._random.sample(servers, self._random.randint(1, len(servers))):
            if server.running:
                self._history.event(f"kill {server.name}")
                server.kill()
                self.kills += 1
            self._fleet.arm(server, REVIVE)
        # Now and then they stay away for a while.
        time.sleep(self._random.choice([0.0, 0.0, 0.05 if self._hurried else 0.3]))
        self._fleet.start()
        for server in servers:
            self._history.event(f"{server.name} runs, to die at {server.die or 'no mark'}")

    def _pause(self, longest: float = 0.6) -> None:
        server = self._some()
        what = f"paused:{server.name}"
        asked = now()
        server.pause()
        self._history.span(what, asked)
        time.sleep(self._random.uniform(longest / 4, longest))
        with self._history.ending(what):
            server.resume()

    def _pause_long(self) -> None:
        self._pause(STALENESS + 2 * PAST)

    def _hold_store(self) -> None:
        asked = now()
        with self._fleet.held_store():
            self._history.span("store", asked)
            time.sleep(STALENESS + PAST)
            with self._history.ending("store"):
                pass

    def _crash_store(self) -> None:
        self._history.event("the store is killed")
        self._fleet.crash_store()
        self._history.event("the store is back")

    def _disable_twins(self) -> None:
        for _ in range(6):
            self._switched(TWINS_KEY, self._random.uniform(0.05, 0.3))
            time.sleep(self._random.uniform(0.05, 0.15))

    def _disable(self) -> None:
        self._switched(self._random.choice("ab"), self._random.uniform(0.1, 2.0))

    def _switched(self, name: str, seconds: float) -> None:
        with disabled(self._fleet, self._history, name):
            time.sleep(seconds)

    def _overtake(self) -> None:
        overtake(self._fleet, self._history, self._random)

    def _ban(self) -> None:
        ban(self._fleet, self._history, self._random)

    def _rotate(self) -> None:
        name = self._random.choice("ab")
        self._fleet.keys.rotate(name)
        self._history.event(f"local:{name} has a new version")

    def _take_keys_away(self) -> None:
        asked = now()
        self._fleet.take_keys_away()
        self._history.span("keys", asked)
        self._calm(self._random.uniform(0.1, 1.0))
        with self._history.ending("keys"):
            self._fleet.bring_keys_back()

    def _cut_off(self) -> None:
        spread(self._fleet, self._history, self._random, self._calm)
