"""One drill: a system with traffic, the faults in it, and what callers saw of them."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from behaviour import Request
from chaos.board import Live
from chaos.history import Attempt, History, Use, now
from chaos.left import cluster_left
from chaos.order import Violation
from chaos.validate import validate
from drill.regions import GRACE, KEYS, NAMES, REGIONS, STALENESS, TTL, World
from drill.traffic import Calls, Traffic
from drill.wan import Fault
from lateness import Lateness

REVOKE: Final = Request("Revoke")
RESTORE: Final = Request("Restore")

RECOVERY: Final = 120.0
"""Seconds within which everything must be back, on a busy machine, too."""


@dataclass
class Seen:
    """What callers saw in one scene, in seconds where nothing else is said.

    Attributes:
        spared: Regions in which no warm call may fail.
        again: From the fault to the last use of what was revoked in the meantime, in the regions
            that are spared; None if the scene revokes nothing.
        last_use: From the beginning of the Revoke that was answered to the last use there.
        failed: Warm calls that failed in the regions that are spared.
        refusal: The longest time for which a server there refused warm calls.
        elsewhere: The same in the other regions.
    """

    spared: tuple[int, ...] = REGIONS
    again: float | None = None
    last_use: float | None = None
    failed: int = 0
    refusal: float = 0.0
    elsewhere: float = 0.0


class Drill:
    """One system with traffic, and the faults in it.

    Attributes:
        world: The system.
        traffic: What calls it.
        history: What callers saw.
        seen: What came of it.
        last_use: Seconds from the newest Revoke to the last use of what it revoked.
        machine: How late the machine is.
    """

    def __init__(self, world: World, seed: int) -> None:
        """Prepares traffic for a system that runs."""
        servers = world.every_server()
        self.world = world
        self.history = History(servers=len(servers), staleness=STALENESS, ttl=TTL, grace=GRACE)
        self.history.serves = {
            server.place: frozenset(NAMES[number] for number in server.serves) for server in servers
        }
        self.history.births = {server.place: [now()] for server in servers}
        self.traffic = Traffic(world, self.history, seed)
        self.seen = Seen()
        self.last_use = 0.0
        self.machine = Lateness(self.history.machine_late)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Lets the traffic run for a block, and sums up what callers saw."""
        began = now()
        with self.machine:
            self.traffic.start()
            try:
                yield
            finally:
                self.world.wan.mend()
                self.traffic.stop()
        spared = self.seen.spared
        others = tuple(region for region in REGIONS if region not in spared)
        self.seen.failed = sum(
            not use.attempt.answer.done
            for use in self.uses(self.traffic.warm, began, now(), spared)
        )
        self.seen.refusal = self._longest_refusal(began, spared)
        self.seen.elsewhere = self._longest_refusal(began, others)

    def _longest_refusal(self, since: float, regions: tuple[int, ...]) -> float:
        longest = 0.0
        for server in (server for n in regions for server in self.world.servers[n]):
            began: float | None = None
            for use in self.uses(self.traffic.warm, since, now(), regions):
                if use.attempt.server != server.name:
                    continue
                if not use.attempt.answer.done:
                    began = use.attempt.start if began is None else began
                elif began is not None:
                    longest, began = max(longest, use.attempt.end - began), None
        return longest

    # Faults

    @contextmanager
    def suffering(
        self,
        what: str,
        faults: Iterable[Fault],
        *,
        storeless: Sequence[int] = (),
        keyless: Sequence[int] = REGIONS,
    ) -> Iterator[float]:
        """Lets the network suffer faults for a block, alone; yields when they began.

        Args:
            what: The faults' name in the history.
            faults: The faults.
            storeless: Regions whose servers reach no store that takes writes.
            keyless: Regions whose servers cannot reach every KMS.
        """
        asked = now()
        self.world.wan.suffer(faults)
        spans = [
            f"{kind}:{server.place}"
            for kind, regions in (("store", storeless), ("keys", keyless))
            for n in regions
            for server in self.world.servers[n]
        ]
        with self._noted(what, spans, asked, self.world.wan.mend):
            yield asked

    @contextmanager
    def _noted(
        self, what: str, spans: Sequence[str], asked: float, end: Callable[[], None]
    ) -> Iterator[None]:
        """Notes a fault that has begun, for a block, at whose end it ends the fault."""
        for span in spans:
            self.history.span(span, asked)
        self.history.event(what)
        try:
            yield
        finally:
            with ExitStack() as ending:
                for span in spans:
                    ending.enter_context(self.history.ending(span))
                end()
            self.history.event(f"over: {what}")

    @contextmanager
    def cut_off(self, region: int) -> Iterator[float]:
        """Cuts a region off from all others for a block; yields when."""
        around = self.world.wan.around(region)
        with self.suffering(f"region {region} is cut off", around, storeless=(region,)) as asked:
            yield asked

    @contextmanager
    def asleep(self, region: int) -> Iterator[None]:
        """Lets a region's servers sleep for a block."""

        def tell(how: signal.Signals) -> None:
            for server in self.world.servers[region]:
                server.signal(how)

        spans = [f"paused:{server.place}" for server in self.world.servers[region]]
        asked = now()
        tell(signal.SIGSTOP)
        wake = functools.partial(tell, signal.SIGCONT)
        with self._noted(f"servers of region {region} sleep", spans, asked, wake):
            yield

    @contextmanager
    def vault_away(
        self, region: int, how: Callable[[], None], end: Callable[[], None]
    ) -> Iterator[None]:
        """Takes a region's KMS away from all for a block, while the network is whole.

        Args:
            region: The region.
            how: What takes it away.
            end: What brings it back.
        """
        asked = now()
        how()
        spans = [f"out:{uri}" for uri in KEYS[NAMES[region]]]
        with self._noted(f"the KMS of region {region} is away", spans, asked, end):
            yield

    # What callers saw

    def split(self) -> tuple[int, tuple[int, ...]]:
        """Returns the primary's region, and the others."""
        primary = self.world.primary()
        assert primary is not None
        return primary, tuple(region for region in REGIONS if region != primary)

    def uses(self, of: Live, since: float, until: float, regions: Sequence[int]) -> list[Use]:
        """Returns the uses of a cluster at servers of some regions that began in a time.

        Uses of a key of a region that the server does not serve are not among them.
        """
        names = {server.name for n in regions for server in self.world.servers[n]}
        return [
            use
            for use in list(self.history.uses)
            if use.cluster == of.name
            and self.history.served(use)
            and since <= use.attempt.start < until
            and use.attempt.server in names
        ]

    def timed(self, request: Request, region: int) -> Attempt:
        """Revokes or restores the timed cluster from a region, as soon as that can be done."""
        servers = self.world.servers[region]
        with Calls(servers[:1] if request is REVOKE else servers[-1:]) as ways:
            change = self.traffic.places[0].carry_out(ways, self.traffic.timed, request)
        assert change.attempts[-1].answer.done, change.attempts[-1]
        return change.attempts[-1]

    def revoke(self, region: int, since: float) -> Attempt:
        """Revokes the timed cluster from a region, and sees when nobody spared uses it any more.

        Args:
            region: The region.
            since: The time from which `Seen.again` counts.
        """
        revoked = self.timed(REVOKE, region)
        time.sleep(1.0)
        uses = self.uses(self.traffic.timed, since, now(), self.seen.spared)
        last = max((use.attempt.end for use in uses if use.attempt.answer.done), default=since)
        self.seen.again = max(self.seen.again or 0.0, last - since)
        self.last_use = max(0.0, last - revoked.start)
        self.seen.last_use = max(self.seen.last_use or 0.0, self.last_use)
        return revoked

    def settled(self) -> float:
        """Waits until all is well again; returns how many seconds that took."""
        took = self.world.until(self.world.in_sync, RECOVERY)
        return took + self.world.until(self._all_serve, RECOVERY)

    def _all_serve(self) -> bool:
        since = now() - 2.0
        uses = self.uses(self.traffic.warm, since, now(), REGIONS)
        serving = {use.attempt.server for use in uses if use.attempt.answer.done}
        return len(serving) == len(self.world.every_server()) and all(
            use.attempt.answer.done for use in uses
        )

    def stopped(self, since: float, until: float, region: int) -> float:
        """Returns the seconds for which a region's servers still served warm keys.

        After that they must have refused for the right reason.
        """
        uses = self.uses(self.traffic.warm, since, until, (region,))
        last = max(use.attempt.end for use in uses if use.attempt.answer.done)
        reasons = {use.attempt.answer.reason for use in uses if use.attempt.start > last}
        assert reasons == {"STORE_STALE"}, reasons
        return last - since

    def violations(self) -> list[Violation]:
        """Validates the history, and what the system holds at the end."""
        found = validate(self.history)
        if self.seen.failed:
            text = f"{self.seen.failed} warm calls failed in the regions {self.seen.spared}"
            found.append(Violation("warm", self.traffic.warm.name, text))
        with Calls([self.world.control(1)]) as ways:
            for live in (*self.traffic.live, *self.traffic.further):
                kept = [blob for blob in self.history.blobs if blob.cluster == live.name]
                found += cluster_left(ways[0].stub, self.history, live.name, kept)
        return found
