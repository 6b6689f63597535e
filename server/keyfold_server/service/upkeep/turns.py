"""Turns: which replica asks about the root keys of a slot, so that only one for each region does.

A claim in the store holds the turn for most of an interval. A replica that the network cuts off
from a KMS must not be the one that asks it for ever, and a replica that can reach the KMS must not
wait for it. Each region has claims of its own: a replica claims only the regions that it serves,
since another region's credential and way to a KMS say nothing about this one's. Replicas that serve
every region have claims apart, for the same reason. Turns also know when each slot had its last
one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Final

from keyfold_server.domain.health import COULD_NOT_TELL, ROOT, own_subject, turn_subject
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

    def __init__(
        self, storage: Storage, interval: float, clock: Clock, serves: frozenset[str] | None = None
    ) -> None:
        """Takes what turns are about.

        Args:
            storage: The store.
            interval: Seconds from one sweep to the next.
            clock: Monotonic time.
            serves: The names of the regions that this replica serves; None: all.
        """
        self.interval = interval
        self._storage = storage
        self._clock = clock
        self._serves = serves
        self._ended = [clock.monotonic()] * SLOTS
        # By region and root key id.
        self._stepping_back: dict[tuple[str, str], int] = {}

    @property
    def age(self) -> float:
        """Seconds since the slot that waits longest had a turn. Any thread may ask."""
        return self._clock.monotonic() - min(self._ended)

    def ended(self, slot: int) -> None:
        """Notes that a slot had its turn, be it this replica's or another's."""
        self._ended[slot] = self._clock.monotonic()

    async def claim(self, prefix: str) -> list[Sample]:
        """Returns the KEKs to ask about, without those of regions where another has the turn.

        Args:
            prefix: The first byte of the root keys' ids, in hex.

        Returns:
            The KEKs, by region and then by root key.
        """
        store = self._storage.store
        found = await self._storage.run(store.roots_in_use, prefix, self._serves)
        by_region = {
            region: {root for _, root in each}
            for region, each in itertools.groupby(found, lambda pair: pair[0])
        }
        if not by_region:
            return []
        holds = await self._holds(by_region)
        own = self._serves is not None
        works = {region: turn_subject(region, prefix, own=own) for region in by_region}
        claimed = await self._storage.run(
            store.claim, {work: holds[region] for region, work in works.items()}
        )
        ours = frozenset(region for region, work in works.items() if work in claimed)
        if not ours:
            return []
        # Only now: whose turn it is not need not read all KEKs under these root keys.
        return await self._storage.run(store.samples, prefix, ours, own=own)

    def could_not_ask(self, sample: Sample) -> None:
        """Makes this replica step back from a region's root key about which it could not ask."""
        self._stepping_back[sample.region, sample.root] = _STEPS_BACK

    def could_ask(self, sample: Sample) -> None:
        """Ends the stepping back."""
        self._stepping_back.pop((sample.region, sample.root), None)

    async def _holds(self, by_region: Mapping[str, set[str]]) -> dict[str, int]:
        """Returns the milliseconds for which another's claim holds, by region."""
        parts: dict[str, float] = {}
        others: dict[str, set[str]] = {}
        for region, roots in by_region.items():
            back = {root for root in roots if self._steps_back(region, root)}
            parts[region] = _STEP_BACK if back else _PART
            others[region] = {self._subject(root, region) for root in roots - back}
        subjects = sorted(set().union(*others.values()))
        seen = await self._storage.run(self._storage.store.observations, subjects)
        unknown = {subject for subject, one in seen.items() if one.health in COULD_NOT_TELL}
        return {
            # Whoever had the turn could not ask, so its claim does not count.
            region: 0 if others[region] & unknown else int(self.interval * part * 1000)
            for region, part in parts.items()
        }

    def _subject(self, root: str, region: str) -> str:
        subject = f"{ROOT}{root}"
        return subject if self._serves is None else own_subject(subject, region)

    def _steps_back(self, region: str, root: str) -> bool:
        """Says whether this replica steps back from a root key, and counts one turn down."""
        left = self._stepping_back.get((region, root), 0)
        if left > 1:
            self._stepping_back[region, root] = left - 1
        else:
            self._stepping_back.pop((region, root), None)
        return left > 0
