"""Turns: which replica asks about the root keys of a slot, so that only one of all does.

A claim in the store holds the turn for most of an interval. A replica that the network cuts off
from a KMS must not be the one that asks it for ever, and a replica that can reach the KMS must not
wait for it. Turns also know when each slot had its last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from keyfold_server.domain.health import COULD_NOT_TELL
from keyfold_server.domain.ports import Clock, Sample
from keyfold_server.service.storage import Storage

SLOTS: Final = 256
"""Slots of an interval: one for each first byte of a root key id."""

_PART: Final = 0.75
"""Part of the interval for which a claim holds. It is less than all of the interval, so that a
replica whose turn comes a little early need not wait for another interval."""

_STEP_BACK: Final = 0.95
"""Part of the interval for which another replica's claim holds against a replica that could not
ask about a root key. That replica takes the turn only if no other replica has taken it since."""

_STEPS_BACK: Final = 4
"""Turns for which such a replica steps back before it claims as the others do."""


class Turns:
    """Claims root keys in the store.

    Attributes:
        interval: Seconds from one sweep to the next.
    """

    def __init__(self, storage: Storage, interval: float, clock: Clock) -> None:
        """Takes the store, the seconds from one sweep to the next, and monotonic time."""
        self.interval = interval
        self._storage = storage
        self._clock = clock
        self._ended = [clock.monotonic()] * SLOTS
        self._stepping_back: dict[str, int] = {}

    @property
    def age(self) -> float:
        """Seconds since the slot that waits longest had a turn. Any thread may ask."""
        return self._clock.monotonic() - min(self._ended)

    def ended(self, slot: int) -> None:
        """Notes that a slot had its turn, be it this replica's or another's."""
        self._ended[slot] = self._clock.monotonic()

    async def claim(self, prefix: str) -> list[Sample]:
        """Returns the KEKs to ask about, or an empty list if another replica has the turn.

        Args:
            prefix: The first byte of the root keys' ids, in hex.
        """
        store = self._storage.store
        samples = await self._storage.run(store.samples, prefix)
        if not samples:
            return []
        holds = int(self.interval * await self._part(samples) * 1000)
        ours = await self._storage.run(store.claim, f"sweep:{prefix}", holds)
        return samples if ours else []

    def could_not_ask(self, root_id: str) -> None:
        """Makes this replica step back from a root key about which it could not ask."""
        self._stepping_back[root_id] = _STEPS_BACK

    def could_ask(self, root_id: str) -> None:
        """Ends the stepping back."""
        self._stepping_back.pop(root_id, None)

    async def _part(self, samples: Sequence[Sample]) -> float:
        """Returns the part of the interval for which another's claim of these root keys holds."""
        roots = {sample.root for sample in samples}
        stepping_back = roots & self._stepping_back.keys()
        for root in stepping_back:
            self._stepping_back[root] -= 1
            if not self._stepping_back[root]:
                del self._stepping_back[root]
        others = [f"root:{root}" for root in roots - stepping_back]
        seen = await self._storage.run(self._storage.store.observations, others)
        if any(observation.health in COULD_NOT_TELL for observation in seen.values()):
            # Whoever had the turn could not ask, so its claim does not count.
            return 0.0
        return _STEP_BACK if stepping_back else _PART
