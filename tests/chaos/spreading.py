"""A refusal that one server sees, while another one is cut off from the keys (protocol F2).

The server that is cut off holds the KEK in memory and cannot see the refusal. It must stop because
the others tell it, and stay stopped when the key is back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack

from chaos.board import TWINS, TWINS_KEY
from chaos.calls import Way
from chaos.fleet import STALENESS, Fleet
from chaos.history import History, now
from chaos.overtaking import Calls, disabled
from chaos.twins import TOLD
from e2e.wire import stubs


def spread(
    fleet: Fleet, history: History, draw: random.Random, calm: Callable[[float], None]
) -> None:
    """Cuts a server off from the keys, has another one see a refusal, and uses the first.

    Args:
        fleet: The servers, of which it needs two.
        history: The history that receives the events and the uses.
        draw: Source of the choices.
        calm: Lets some seconds pass.
    """
    cut, other = draw.sample(fleet.servers, 2)
    what = f"keys:{cut.folder.name}"
    with ExitStack() as stack:
        here, there = (
            Calls(history, Way(stack.enter_context(stubs(server.target)), server.name), draw)
            for server in (cut, other)
        )
        # One could serve on from memory, and to the other the refusal is news.
        _use(here)
        _use(there)
        asked = now()
        fleet.cut_off(cut)
        history.span(what, asked)
        with disabled(fleet, history, TWINS_KEY):
            _use(there)
            calm(STALENESS + TOLD + draw.uniform(0.1, 0.5))
            _use(here)
        calm(draw.uniform(0.2, 0.8))
        _use(here)
        with history.ending(what):
            fleet.join(cut)


def _use(calls: Calls) -> None:
    for name in TWINS:
        calls.use(name)
