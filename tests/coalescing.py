"""Calls that travel together: how tests of both clients make them, and compare how they end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import pytest

import keyfold
from keyfold.coalescing import tasks, threads
from served import Served

ONE_BY_ONE: Final = ("Wrap", "Unwrap", "Rewrap")
"""The methods whose calls may travel together, as they are called alone."""

_WITHIN: Final = 30.0

Scene = Callable[[Any], Any]
"""Makes a call with a client, which returns the result or something to await."""


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has calls wait for the one under way for as long as a test holds it."""
    for module in (threads, tasks):
        monkeypatch.setattr(module, "PATIENCE", _WITHIN)


class Together(Protocol):
    """Makes calls at once, and returns how each ended: its result, or the facts of its error."""

    def __call__(
        self, server: Served, scenes: Sequence[Scene], *, coalesce: bool, **options: Any
    ) -> list[Any]:
        """Makes calls. Those that go ahead are held until the others wait for them.

        Args:
            server: The relay and the server.
            scenes: The calls.
            coalesce: Whether the client coalesces.
            **options: Further arguments of the client.
        """
        ...


def in_threads(
    server: Served, scenes: Sequence[Scene], *, coalesce: bool, **options: Any
) -> list[Any]:
    """Makes each call in a thread of its own."""
    ended: dict[int, Any] = {}
    with keyfold.Client(server.target, coalesce=coalesce, **options) as client:

        def make(place: int, scene: Scene) -> None:
            try:
                ended[place] = scene(client)
            except Exception as error:  # noqa: BLE001  compared with how another client ends
                ended[place] = facts(error)

        begun = _Begun(server, client, ended, len(scenes)) if coalesce else None
        callers = [
            threading.Thread(target=make, args=each, daemon=True) for each in enumerate(scenes)
        ]
        for caller in callers:
            caller.start()
            if begun is not None:
                begun.wait(1)  # The first one goes ahead.
        for caller in callers:
            caller.join(_WITHIN)
            assert not caller.is_alive(), "a call hangs"
    return [ended[place] for place in range(len(scenes))]


def in_tasks(
    server: Served, scenes: Sequence[Scene], *, coalesce: bool, **options: Any
) -> list[Any]:
    """Makes each call in a task of its own."""
    ended: dict[int, Any] = {}

    async def run() -> None:
        async with keyfold.AsyncClient(server.target, coalesce=coalesce, **options) as client:

            async def make(place: int, scene: Scene) -> None:
                try:
                    ended[place] = await scene(client)
                except Exception as error:  # noqa: BLE001  compared with another client's
                    ended[place] = facts(error)

            if coalesce:
                _Begun(server, client, ended, len(scenes))
            async with asyncio.timeout(_WITHIN):
                await asyncio.gather(*(make(*each) for each in enumerate(scenes)))

    asyncio.run(run())
    return [ended[place] for place in range(len(scenes))]


def waiting(client: keyfold.Client | keyfold.AsyncClient) -> int:
    """Returns how many calls of a client wait."""
    assert client._coalescer is not None
    lanes: Any = client._coalescer._lanes
    return sum(len(lane.waiting) for lane in list(lanes.values()))


def facts(error: BaseException | None) -> tuple[Any, ...]:
    """Returns all that a caller can see of an error."""
    known = dict(vars(error))
    if known.get("retry_after") is not None:
        known["retry_after"] = "some time"  # It counts down.
    return type(error), str(error), known


class _Begun:
    """Counts the calls that have begun, and holds those that go ahead until all have."""

    def __init__(self, server: Served, client: Any, ended: dict[int, Any], count: int) -> None:
        self._server = server
        self._client = client
        self._ended = ended
        self._before = self._sent()
        server.holds.update(dict.fromkeys(ONE_BY_ONE, lambda: self.wait(count)))

    def _sent(self) -> int:
        return sum(map(len, list(self._server.requests.values())))

    def wait(self, count: int) -> None:
        """Waits until so many calls have begun."""
        until = time.monotonic() + _WITHIN / 2
        while time.monotonic() < until:
            sent = self._sent() - self._before
            if waiting(self._client) + sent + len(self._ended) >= count:
                return
            time.sleep(0.001)
