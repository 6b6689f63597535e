"""What goes wrong: servers killed and paused, the store held and crashed, keys taken away.

Runs in the thread that made the system: a PostgreSQL server ends with the thread that began it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from chaos.fleet import STALENESS, ChaosServer, Fleet
from chaos.history import History, now
from keyfold_server.providers.local_keys import KeyFile

REVIVE: Final = 0.6
"""Chance that a server which starts again will end at a mark of the store's mutations."""

PAST: Final = 0.8
"""Seconds for which a store is held beyond what a replica may go without it."""


class Faults:
    """Brings faults about, one after the other, and notes what it did."""

    def __init__(
        self, fleet: Fleet, history: History, seed: int, only: tuple[str, ...] = ()
    ) -> None:
        """Takes the system.

        Args:
            fleet: The servers, their store and their keys.
            history: Where it notes what it did.
            seed: Draws what goes wrong.
            only: Names of the faults to choose from; empty: all.
        """
        self._fleet = fleet
        self._history = history
        self._random = random.Random(seed)
        self.kills = 0
        kinds: dict[str, tuple[float, Callable[[], None]]] = {
            "kill": (5, self._kill),
            "pause": (2, self._pause),
            "twins": (3, self._disable_twins),
            "disable": (2, self._disable),
            "rotate": (2, self._rotate),
            "keys": (1.5, self._take_keys_away),
            "hold": (1, self._hold_store),
        }
        if fleet.database is not None:
            kinds |= {"crash": (2, self._crash_store), "pause-long": (1.5, self._pause_long)}
        first = ("rotate", "twins", "hold", "keys", "kill")
        self._kinds = [kind for name, kind in kinds.items() if not only or name in only]
        self._first = [] if only else [kinds[name][1] for name in first]

    def run(self, seconds: float, kills: int) -> None:
        """Brings faults about for a while, and for longer until so many servers were killed."""
        ends = now() + seconds
        self._calm(0.7)
        while now() < ends or self.kills + self._fleet.deaths < kills:
            if self._first and kills == 0:
                self._first.pop(0)()
            else:
                weights = [weight for weight, _ in self._kinds]
                [(_, fault)] = self._random.choices(self._kinds, weights)
                fault()
            self._calm(self._random.uniform(0.05, 0.5))
        self._fleet.revive(0.0)

    def _calm(self, seconds: float) -> None:
        ends = now() + seconds
        while now() < ends:
            time.sleep(0.05)
            self._fleet.revive(REVIVE)

    def _some(self) -> ChaosServer:
        return self._random.choice(self._fleet.servers)

    def _kill(self) -> None:
        server = self._some()
        if server.running:
            self._history.event(f"kill {server.name}")
            self._fleet.kill(server)
            self.kills += 1
        # Now and then it stays away for a while.
        time.sleep(self._random.choice([0.0, 0.0, 0.3]))
        self._fleet.arm(server, REVIVE)
        self._fleet.start()
        self._history.event(f"started {server.name}, to die at {server.die or 'no mark'}")

    def _pause(self, longest: float = 0.6) -> None:
        server = self._some()
        what = f"paused:{server.name}"
        asked = now()
        self._fleet.pause(server)
        self._history.span(what, asked)
        time.sleep(self._random.uniform(longest / 4, longest))
        with self._history.ending(what):
            self._fleet.resume(server)

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
            self._switched("twins", self._random.uniform(0.05, 0.3))
            time.sleep(self._random.uniform(0.05, 0.15))

    def _disable(self) -> None:
        self._switched(self._random.choice("ab"), self._random.uniform(0.1, 2.0))

    def _switched(self, name: str, seconds: float) -> None:
        what = f"key:local:{name}"
        asked = now()
        self._keys().disable(name)
        self._history.span(what, asked)
        time.sleep(seconds)
        with self._history.ending(what):
            self._keys().enable(name)

    def _rotate(self) -> None:
        name = self._random.choice("ab")
        self._keys().rotate(name)
        self._history.event(f"local:{name} has a new version")

    def _take_keys_away(self) -> None:
        asked = now()
        self._fleet.take_keys_away()
        self._history.span("keys", asked)
        self._calm(self._random.uniform(0.1, 1.0))
        with self._history.ending("keys"):
            self._fleet.bring_keys_back()

    def _keys(self) -> KeyFile:
        return self._fleet.keys
