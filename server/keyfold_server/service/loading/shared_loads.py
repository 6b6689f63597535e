"""Shared loads: calls that need the same KEK or the same proof wait for one load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from keyfold_server.domain.cluster import Generation
from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.service.data.cache_entries import CachedKek, ClusterView
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.tasks import Tasks


@dataclass(frozen=True, slots=True, eq=False)
class SharedLoad:
    """A running load. Calls that need its KEK, or only its root key's proof, may join it.

    Attributes:
        task: The load. Its result is the KEK, an error, or None if the load was overtaken.
        kek_id: The KEK that it loads.
        view: The cluster's view when it began.
        invalidations: The root key's count of invalidations when it began.
    """

    task: asyncio.Task[CachedKek | KeyfoldError | None]
    kek_id: bytes
    view: ClusterView
    invalidations: int


class SharedLoads:
    """The running loads that calls may join, by KEK or by root key."""

    def __init__(self, cache: KeyCache, tasks: Tasks) -> None:
        """Starts without loads."""
        self._cache = cache
        self._tasks = tasks
        self._loads: dict[str | bytes, SharedLoad] = {}

    def join(
        self,
        view: ClusterView,
        generation: Generation,
        load: Callable[[], Coroutine[Any, Any, CachedKek | KeyfoldError | None]],
    ) -> SharedLoad:
        """Joins a load that was not overtaken (protocol R2), or starts one.

        Args:
            view: The view under which the call needs the KEK.
            generation: The KEK that the call needs.
            load: Makes a load of the KEK.
        """
        root = self._cache.root(generation.current.root_id)
        # A KEK in memory needs only a proof, and any load under its root key brings one.
        key = root.root_id if generation.kek_id in view.open else generation.kek_id
        shared = self._loads.get(key)
        if (
            shared is not None
            and shared.invalidations == root.invalidations
            and self._cache.holds(shared.view)
            and not shared.task.done()
        ):
            return shared
        task = self._tasks.start(load())
        shared = self._loads[key] = SharedLoad(task, generation.kek_id, view, root.invalidations)

        def done(_: asyncio.Task[CachedKek | KeyfoldError | None]) -> None:
            if self._loads.get(key) is shared:
                del self._loads[key]

        task.add_done_callback(done)
        return shared
