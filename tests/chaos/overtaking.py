"""A load that a refusal overtakes (protocol R2).

The KMS has answered an unwrap, and the answer is under way, when the key is disabled and the same
server sees the KMS refuse it. The unwrap then ends after a refusal that it began before, and the
next caller must not find the KEK that it brought.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from behaviour import Request
from chaos.board import TWINS, TWINS_KEY
from chaos.calls import Caller, Way
from chaos.fleet import Fleet
from chaos.history import Change, History, now
from e2e.wire import stubs

_CLIENT: Final = -1
_REGION: Final = "eu"
_USES: Final = 3

_WAIT: Final = 0.5
"""Seconds within which the KMS answers an unwrap; none comes if another call opened the KEK."""


@contextmanager
def disabled(fleet: Fleet, history: History, name: str) -> Iterator[None]:
    """Keeps a dev key disabled within a `with`."""
    what = f"key:local:{name}"
    asked = now()
    fleet.keys.disable(name)
    history.span(what, asked)
    try:
        yield
    finally:
        with history.ending(what):
            fleet.keys.enable(name)


def overtake(fleet: Fleet, history: History, draw: random.Random) -> None:
    """Makes a refusal overtake a load on one server, and uses there what was loaded."""
    server = draw.choice(fleet.servers)
    warm = draw.choice([name for name, ttl in TWINS.items() if ttl > 0])
    [asked] = [name for name, ttl in TWINS.items() if ttl == 0]
    with stubs(server.target) as stub, ExitStack() as key:
        calls = Calls(history, Way(stub, server.name), draw)
        # The key must not be refused already, so that its refusal is news.
        calls.use(asked)
        calls.drop(warm)
        with server.holding(warm, _REGION) as held:
            loading = threading.Thread(target=calls.use, args=(warm,), daemon=True)
            loading.start()
            if _appeared(held, loading):
                key.enter_context(disabled(fleet, history, TWINS_KEY))
                calls.use(asked)
        loading.join()
        for _ in range(_USES):
            calls.use(warm)


class Calls:
    """Calls one server."""

    def __init__(self, history: History, way: Way, draw: random.Random) -> None:
        self._history = history
        self._caller = Caller(_CLIENT, history)
        self._way = way
        self._random = draw

    def use(self, cluster: str) -> None:
        """Uses the KEK under the disabled root key."""
        self._caller.wrap(self._way, cluster, _REGION, self._random.randbytes(16))

    def drop(self, cluster: str) -> None:
        """Makes the server forget a cluster and its KEKs, by changes to the other region."""
        for method in ("Revoke", "Restore"):
            change = Change(_CLIENT, cluster, Request(method, ("us",)), "")
            self._history.changes.append(change)
            self._caller.change(self._way, change)


def _appeared(held: Path, loading: threading.Thread) -> bool:
    """Waits for an unwrap to be kept back; returns whether that happened."""
    ends = now() + _WAIT
    while loading.is_alive() and now() < ends:
        if held.exists():
            return True
        time.sleep(0.002)
    return False
