"""Refusals: telling the other replicas that a customer's KMS has refused a key (protocol F2).

The replica that met the refusal has dropped the key already. The others learn of the refusal from
an entry of the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.health import Observation
from keyfold_server.service.storage import Storage
from keyfold_server.service.supervisor import Supervisor
from keyfold_server.service.tasks import Tasks

log = logging.getLogger(__name__)

_LAST_WORDS: Final = 5.0
"""Seconds for which a replica that stops goes on trying to record its refusals."""


class Refusals:
    """Records refusals in the store, in the background."""

    def __init__(
        self,
        replica: str,
        storage: Storage,
        retry_after: float,
        supervisor: Supervisor,
        recorded: Callable[[str], None],
    ) -> None:
        """Takes where to record refusals.

        Args:
            replica: This replica's name.
            storage: The store.
            retry_after: Seconds to wait before the next attempt if the store did not take one.
            supervisor: Goes on where an attempt ends unexpectedly.
            recorded: Called with each root key id whose refusal the store has, ahead of the poll.
        """
        self._recorded = recorded
        self._supervisor = supervisor
        self._replica = replica
        self._storage = storage
        self._retry_after = retry_after
        self._tasks = Tasks()

    def tell_others(
        self, root_id: str, seen: Observation, kek_id: bytes | None
    ) -> asyncio.Task[int]:
        """Begins to record a refusal of a root key or, with a `kek_id`, of that KEK alone.

        Returns:
            A task that ends with the number of the log's entry.
        """
        record = partial(self._record, root_id, seen, kek_id)
        return self._tasks.start(self._supervisor.insist("refusals", record))

    async def stop(self) -> None:
        """Waits a little for refusals that the store does not have yet, then gives up."""
        await self._tasks.drain(_LAST_WORDS)

    async def _record(self, root_id: str, seen: Observation, kek_id: bytes | None) -> int:
        """Retries until the store has recorded the refusal; returns the number of its entry.

        No later call would notice that it is missing.
        """
        while True:
            try:
                number = await self._storage.decide(
                    self._storage.store.refused, root_id, seen, self._replica, kek_id
                )
            except KeyfoldError as error:
                log.error("other replicas cannot see a refusal yet: %s", error.reason)  # noqa: TRY400
                await asyncio.sleep(self._retry_after)
            else:
                self._recorded(root_id)
                return number
