"""The board that the clients of a run share: the clusters in use and those used before."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import Final

from behaviour import State
from chaos.history import Blob

TWINS_KEY: Final = "twins"
TWINS_URI: Final = f"local:{TWINS_KEY}"
TWINS: Final = {"twin-asked": 0, "twin-warm": 60, "twin-warm-2": 60, "twin-warm-3": 60}
"""Clusters whose region eu is under one root key that is never rotated, with their cache TTL. One
asks the KMS on every call. The others use their KEK from memory, so a refusal to the first must
reach them."""

TWINS_GRACE: Final = 60
"""Grace of both, in seconds: long, so that only a refusal can end their use."""

LIVE: Final = 3
"""Clusters that clients change at a time."""

CHANGES: Final = 36
"""Changes of one cluster before another takes its place."""


@dataclass(slots=True)
class Live:
    """A cluster that clients share."""

    name: str
    changes: int = 0
    shown: State = None
    blobs: list[Blob] = field(default_factory=list)


class Board:
    """The clusters that clients share: those in use and those used before."""

    def __init__(self) -> None:
        """Creates the first clusters."""
        self._lock = threading.Lock()
        self._count = 0
        self.old: list[Live] = []
        self.twins = [Live(name) for name in TWINS]
        self.live = [self._next() for _ in range(LIVE)]

    def _next(self) -> Live:
        self._count += 1
        return Live(f"c{self._count}")

    def pick(self, random_: random.Random) -> Live:
        """Returns a cluster to change and counts the change."""
        with self._lock:
            place = random_.randrange(LIVE)
            chosen = self.live[place]
            chosen.changes += 1
            if chosen.changes > CHANGES:
                self.old.append(chosen)
                chosen = self.live[place] = self._next()
            return chosen
