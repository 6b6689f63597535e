"""Looks: the clusters that changed, each read once for all readers of states.

A change marks its cluster. Then one task reads the marked clusters, some at a time, and appends
what it found to a bounded sequence. Each reader goes through the sequence from its own place and
skips what was found again later, so intermediate states merge and the last one is never missed. A
change that comes during a read marks the cluster again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from keyfold_server.domain.cluster import Cluster, Region
from keyfold_server.domain.errors import KeyfoldError, Unusable
from keyfold_server.domain.health import Observation
from keyfold_server.domain.log import START, Entry, Position
from keyfold_server.domain.region_health import RegionHealth, subjects_of
from keyfold_server.service.fleet.staleness import NEVER, Moment
from keyfold_server.service.observed.health import HealthRecorder
from keyfold_server.service.storage import Storage
from keyfold_server.service.supervisor import Supervisor
from keyfold_server.service.tasks import Tasks

log = logging.getLogger(__name__)

_MOST: Final = 20_000
"""Most looks in the sequence. A reader that is further behind must begin again."""

_AT_ONCE: Final = 200
"""Most clusters that one read looks at."""

_AGAIN: Final = 0.5
"""Seconds after which a read that failed is tried again."""


@dataclass(frozen=True, slots=True)
class RegionLook:
    """A region as a reader of states sees it.

    Attributes:
        region: The region as the store has it.
        seen: The observation of its newest KEK that decides, or None.
        refusal: The number of the newest entry that tells of a refusal of its root key; 0: none.
    """

    region: Region
    seen: Observation | None
    refusal: int


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A cluster as it was found.

    Attributes:
        name: The cluster's name.
        cluster: The cluster; None: it does not exist, or its rows serve nobody.
        unusable: Why its rows serve nobody, or None.
        organization: The organization that it has or, as far as this replica knows, had last.
        regions: Its regions.
        encoded: What was made of it for readers, by the regions that they see.
    """

    name: str
    cluster: Cluster | None
    unusable: Unusable | None
    organization: str | None
    regions: tuple[RegionLook, ...] = ()
    encoded: dict[tuple[str, ...], bytes] = field(default_factory=dict, repr=False)


class Looks:
    """The clusters that changed; belongs to one event loop.

    Attributes:
        newest: The number of looks that were ever taken.
        settled: A number of looks, the last entry of the log whose effects these show, and the
            moment up to which they show all that the store had.
    """

    def __init__(
        self,
        storage: Storage,
        health: HealthRecorder,
        last_seen: Callable[[str], Cluster | None],
        supervisor: Supervisor,
        tasks: Tasks,
        wake: Callable[[], None],
    ) -> None:
        """Joins the looks to the store.

        Args:
            storage: The store.
            health: Knows what this replica has observed and not written yet.
            last_seen: Returns a cluster as this replica verified it last, or None.
            supervisor: Goes on where a read fails unexpectedly.
            tasks: Runs the task that reads.
            wake: Wakes the readers.
        """
        self.newest = 0
        self.settled = (0, START, NEVER)
        self._storage = storage
        self._health = health
        self._last_seen = last_seen
        self._supervisor = supervisor
        self._tasks = tasks
        self._wake = wake
        self._named: Counter[str] = Counter()
        self._broad = 0
        self._marked: dict[str, None] = {}
        self._roots: dict[str, None] = {}
        self._applied = START
        self._fresh = NEVER
        # The clusters that have not changed since they were looked at, as long as somebody wants
        # to hear of their changes; and a count of all changes.
        self._current: dict[str, Look] = {}
        self._changes = 0
        # What `newest` was when a reader last went on from what the log had told.
        self._resumed = 0
        self._reading = False
        self._found: dict[int, Look] = {}
        self._last: dict[str, int] = {}

    # Readers

    def join(self, names: Iterable[str] | None) -> None:
        """Begins to look at clusters for a reader; None: at every cluster."""
        if names is None:
            self._broad += 1
        else:
            self._named.update(names)

    def leave(self, names: Iterable[str] | None) -> None:
        """Ends what `join` began."""
        if names is None:
            self._broad -= 1
        else:
            self._named -= Counter(names)
        if not self._broad:
            self._current = {n: each for n, each in self._current.items() if n in self._named}

    def resume(self) -> int:
        """Returns the number from which a reader goes on that knows what the log has told so far.

        Looks up to that number may show more than that, such as a commit of this replica that no
        poll has read yet. What they show is looked at again once the log tells of it.
        """
        self._resumed = self.newest
        return self.newest

    def after(self, number: int, limit: int) -> tuple[int, list[Look]] | None:
        """Returns the next looks after a number, without those of clusters looked at again since.

        Returns:
            The number of the last look that was considered, and the looks. None: the sequence no
            longer has all of them.
        """
        first = next(iter(self._found), self.newest + 1)
        if number < first - 1:
            return None
        last = min(self.newest, number + limit)
        found = ((n, self._found[n]) for n in range(number + 1, last + 1))
        return last, [look for n, look in found if self._last[look.name] == n]

    # Changes

    def begin(self, applied: Position) -> None:
        """Begins anew after an entry of the log."""
        self._applied = applied
        self._marked.clear()
        self._roots.clear()
        self._found.clear()
        self._last.clear()
        self._current.clear()
        self._changes += 1
        # A reader of before must not go on: nobody knows what it has missed.
        self.newest += 2
        self.settled = (self.newest, applied, NEVER)

    def apply(self, noted: Sequence[Entry]) -> None:
        """Marks what some entries, which this replica has applied, concern."""
        for entry in noted:
            if entry.root is not None:
                self.mark_root(entry.root)
            if entry.cluster is not None and entry.is_news and not self._shows(entry):
                self.mark(entry.cluster)
            self._applied = Position(entry.number, entry.entry_id)
        self._settle()

    def mark(self, cluster: str) -> None:
        """Has a cluster looked at, because it has changed, if any reader wants to know."""
        if self._wanted(cluster):
            self._changes += 1
            self._current.pop(cluster, None)
            self._marked[cluster] = None
            self._read_on()

    def mark_root(self, root_id: str) -> None:
        """Has the clusters under a root key looked at, because what is known of it has changed."""
        if self._broad or self._named:
            self._changes += 1
            self._roots[root_id] = None
            self._read_on()

    def freshen(self, began: Moment) -> None:
        """Hears that this replica has applied all that the store had at a moment."""
        self._fresh = began
        self._settle()

    def _shows(self, entry: Entry) -> bool:
        """Says whether the last look at a cluster shows a decision already, to every reader."""
        number, floor = self._last.get(entry.cluster or ""), entry.floor
        if number is None or number <= self._resumed or floor is None or floor.banned:
            return False
        seen = self._found[number].cluster
        return seen is not None and seen.uid == floor.uid and seen.version >= floor.version

    def _wanted(self, cluster: str) -> bool:
        return bool(self._broad) or cluster in self._named

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._tasks.start(self._supervisor.insist("looks", self._read))

    async def _read(self) -> None:
        """Reads until nothing is marked."""
        while self._marked or self._roots:
            roots, self._roots = list(self._roots), {}
            names: list[str] = []
            try:
                if roots:
                    await self._mark_users(roots)
                names = list(self._marked)[:_AT_ONCE]
                for name in names:
                    del self._marked[name]
                found = await self.of_changed(names)
            except KeyfoldError as error:
                log.warning("cannot look at what changed: %s", error.reason)
                self._roots = dict.fromkeys(roots) | self._roots
                self._marked = dict.fromkeys(names) | self._marked
                await asyncio.sleep(_AGAIN)
                continue
            for look in found:
                self._keep(look)
            self._wake()
        self._reading = False
        self._settle()
        self._wake()

    async def _mark_users(self, roots: Sequence[str]) -> None:
        for user in await self._storage.run(self._storage.store.users_of_roots, roots):
            if self._wanted(user.cluster):
                self._current.pop(user.cluster, None)
                self._marked[user.cluster] = None

    async def of_changed(self, names: Sequence[str]) -> list[Look]:
        """Looks at clusters that changed; where their rows tell no organization, the log does."""
        looks = await self.of(names)
        for number, look in enumerate(looks):
            if look.cluster is None and look.organization is None:
                organization = await self._storage.run(
                    self._storage.store.organization_of, look.name
                )
                looks[number] = replace(look, organization=organization)
        return looks

    def _settle(self) -> None:
        if not self._reading and not self._marked and not self._roots:
            self.settled = (self.newest, self._applied, self._fresh)
        elif not self._reading:
            self._read_on()

    def _keep(self, look: Look) -> None:
        self.newest += 1
        self._found[self.newest] = look
        self._last[look.name] = self.newest
        while len(self._found) > _MOST:
            number = next(iter(self._found))
            gone = self._found.pop(number)
            if self._last.get(gone.name) == number:
                del self._last[gone.name]

    # Looking

    async def of(self, names: Sequence[str]) -> list[Look]:
        """Looks at clusters by their names, existing or not."""
        # What nobody has changed since need not be read for each of many readers.
        current = self._current if not self._roots else {}
        known = {name: current[name] for name in names if name in current}
        left, changes = [name for name in names if name not in known], self._changes
        if left:
            found = await self._storage.run(self._storage.store.named, left)
            for look in await self.at(left, found):
                known[look.name] = look
                if changes == self._changes and self._wanted(look.name):
                    self._current[look.name] = look
            while len(self._current) > _MOST:
                del self._current[next(iter(self._current))]
        return [known[name] for name in names]

    async def at(self, names: Sequence[str], found: Mapping[str, Cluster | Unusable]) -> list[Look]:
        """Returns the looks at clusters that the store has returned."""
        clusters = [each for each in found.values() if isinstance(each, Cluster)]
        regions = [region for cluster in clusters for region in cluster.regions]
        subjects = {s for region in regions for s in subjects_of(region.name, region.newest)}
        roots = {region.newest.current.root_id for region in regions}
        refusals = await self._storage.run(self._storage.store.last_refusals, roots)
        stored = await self._storage.run(self._storage.store.observations, sorted(subjects))
        known = self._health.combined(stored, subjects)
        return [self._look(name, found.get(name), known, refusals) for name in names]

    def _look(
        self,
        name: str,
        found: Cluster | Unusable | None,
        known: Mapping[str, Observation],
        refusals: Mapping[str, int],
    ) -> Look:
        if not isinstance(found, Cluster):
            return Look(name, None, found, self._organization(name))
        regions = []
        for region in found.regions:
            newest = region.newest
            health = RegionHealth.of(known, region.name, newest, self._health.own_since)
            refusal = refusals.get(newest.current.root_id, 0)
            regions.append(RegionLook(region, health.seen, refusal))
        return Look(name, found, None, found.organization, tuple(regions))

    def _organization(self, name: str) -> str | None:
        """Returns the organization that a cluster had when this replica saw it last, or None."""
        number = self._last.get(name)
        if number is not None and self._found[number].organization is not None:
            return self._found[number].organization
        seen = self._last_seen(name)
        return None if seen is None else seen.organization
