"""First uses: what happens before a KEK of a cluster is loaded that was never used (protocol D6).

A cluster bears a sealed mark from Enable until then. While it does, nobody has wrapped anything
with its keys, so an operator may delete it at once. The mark is taken away in the store before the
load, under the lock of the cluster's row. So of a first use and a deletion at once, whichever
replicas they meet, exactly one wins. If the store cannot be written, the call fails: the mark must
never outlive a use.

Checks of a KEK, such as the sweep's, are no use. What they load stays out of memory as long as the
mark stands, so that no later call finds it there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from keyfold_server.domain.changes import Change, CommittedChange, used
from keyfold_server.domain.cluster import Cluster
from keyfold_server.domain.errors import ConcurrentChangeError, NotFoundError, Unusable
from keyfold_server.domain.log import AuditEvent
from keyfold_server.domain.rights import Identity
from keyfold_server.service.storage import Storage
from keyfold_server.service.tasks import Tasks

ACTION = "server:cluster:use"
"""The action of the entry in the log."""


class FirstUses:
    """Takes the marks of clusters away, each once, whoever waits."""

    def __init__(
        self,
        storage: Storage,
        tasks: Tasks,
        applied: Callable[[int, bytes, str], None],
        made_elsewhere: Callable[[str], None],
    ) -> None:
        """Joins first uses to the store and to this replica's memory.

        Args:
            storage: The store.
            tasks: Keeps the tasks that are under way.
            applied: Applies a change that this replica has committed, by number, id and cluster.
            made_elsewhere: Drops a cluster that another replica has changed.
        """
        self._storage = storage
        self._tasks = tasks
        self._applied = applied
        self._made_elsewhere = made_elsewhere
        self._under_way: dict[bytes, asyncio.Task[None]] = {}

    async def record(self, cluster: Cluster, region: str, caller: Identity) -> None:
        """Takes the mark of a cluster away. Memory has dropped the cluster when this returns.

        Args:
            cluster: The cluster as this replica knows it, with the mark.
            region: The region whose KEK is to be loaded.
            caller: Who is about to use it.

        Raises:
            StoreUnavailableError: The store did not take the change, or did not say so.
            OverloadedError: Too many calls wait for the store.
        """
        task = self._under_way.get(cluster.uid)
        if task is None:
            task = self._tasks.start(self._record(cluster, region, caller))
            self._under_way[cluster.uid] = task
            task.add_done_callback(lambda _: self._under_way.pop(cluster.uid, None))
        await asyncio.shield(task)

    async def _record(self, cluster: Cluster, region: str, caller: Identity) -> None:
        event = AuditEvent(
            caller.name,
            ACTION,
            "done",
            json.dumps({"region": region}, separators=(",", ":")),
            proof=caller.proof,
        )
        change = Change(cluster.name, used(cluster), event)
        (result,) = await self._storage.run(self._storage.store.apply, [change])
        if isinstance(result, CommittedChange):
            self._applied(result.number, result.entry_id, cluster.name)
        elif isinstance(result, ConcurrentChangeError | NotFoundError | Unusable):
            # Another replica has used it, or it is gone, or its rows serve nobody. The next read of
            # the cluster says which.
            self._made_elsewhere(cluster.name)
        else:
            raise result
