"""Reads: how clusters come from the store into memory.

Calls that need the same cluster share one read. A read that an invalidation overtook is discarded,
since it may have seen the cluster as it was before (protocol R2).
"""

from __future__ import annotations

import asyncio

from keyfold_server.domain.cluster import Cluster, existing
from keyfold_server.domain.errors import ClusterBannedError, RowNotAuthenticError
from keyfold_server.domain.ports import Clock
from keyfold_server.domain.served_regions import ServedRegions
from keyfold_server.domain.timing import Timing
from keyfold_server.service.data.cache_entries import ClusterView
from keyfold_server.service.data.call import Call
from keyfold_server.service.data.key_cache import KeyCache
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks


class _Read:
    """A running read of a cluster."""

    __slots__ = ("began", "task")

    def __init__(self, task: asyncio.Task[Cluster | None], began: float) -> None:
        self.task = task
        self.began = began


class Reads:
    """Reads clusters from the store into the cache."""

    def __init__(
        self,
        cache: KeyCache,
        storage: Storage,
        clock: Clock,
        timing: Timing,
        tasks: Tasks,
        served: ServedRegions,
    ) -> None:
        """Joins memory to the store; `served` are the regions whose KEKs may be in memory."""
        self._cache = cache
        self._storage = storage
        self._clock = clock
        self._timing = timing
        self._tasks = tasks
        self._served = served
        self._reads: dict[str, _Read] = {}

    async def for_call(self, name: str, call: Call) -> None:
        """Reads a cluster for a call.

        If the cluster is in memory already, the call needs a read that began after it arrived.

        Raises:
            ClusterNotFoundError: The cluster does not exist.
        """
        in_memory = self._cache.view(name) is not None
        read = self._reads.get(name)
        if in_memory and read is not None and read.began < call.arrived:
            await asyncio.shield(read.task)
            read = self._reads.get(name)
        if read is None:
            read = self._start(name)
        existing(await asyncio.shield(read.task), name)
        if read.began >= call.arrived:
            call.read.add(name)

    async def now(self, name: str, within: float) -> Cluster | None:
        """Reads a cluster anew, even if a read of it is running.

        Args:
            name: The cluster's name.
            within: Seconds to wait.

        Returns:
            The cluster, or None if it does not exist.

        Raises:
            TimeoutError: The store did not answer in time.
        """
        async with asyncio.timeout(within):
            return await asyncio.shield(self._start(name).task)

    def forget(self, name: str) -> None:
        """Has a running read of a cluster discarded when it ends."""
        self._reads.pop(name, None)

    def forget_all(self) -> None:
        """Has every running read discarded when it ends."""
        self._reads.clear()

    def _start(self, name: str) -> _Read:
        task = self._tasks.start(self._storage.run(self._storage.store.cluster, name))
        read = self._reads[name] = _Read(task, self._clock.monotonic())

        def done(task: asyncio.Task[Cluster | None]) -> None:
            if self._reads.get(name) is read:
                del self._reads[name]
                error = None if task.cancelled() else task.exception()
                if isinstance(error, RowNotAuthenticError | ClusterBannedError):
                    # What is in memory is of rows that the store no longer has (protocol A6).
                    self._cache.distrust(name)
                elif error is None and not task.cancelled():
                    self._keep(name, task.result())

        task.add_done_callback(done)
        return read

    def _keep(self, name: str, cluster: Cluster | None) -> None:
        if cluster is None:
            # No cluster leaves the store but by somebody else's hand.
            self._cache.distrust(name)
        else:
            self._cache.put_view(ClusterView(cluster, self._timing, self._served))
