"""What goes wrong between regions, each time with traffic in all of them.

A scene returns what it measured, in seconds. Whoever runs it validates the history afterwards.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import grpc

from behaviour import Request
from chaos.board import Live
from chaos.calls import Way
from chaos.history import Attempt, History, Use, now
from chaos.left import cluster_left
from chaos.order import Violation
from chaos.validate import validate
from drill.regions import GRACE, REGIONS, STALENESS, TTL, World
from drill.traffic import Traffic
from keyfold.v1 import key_management_service_pb2_grpc as service

REVOKE: Final = Request("Revoke")
RESTORE: Final = Request("Restore")

ROUNDS: Final = 9
"""Revocations that are timed."""

_RECOVERY: Final = 120.0
"""Seconds within which everything must be back, on a busy machine, too."""


class Drill:
    """One system with traffic, and the faults in it.

    Attributes:
        world: The system.
        traffic: What calls it.
        history: What callers saw.
    """

    def __init__(self, world: World, seed: int) -> None:
        """Prepares traffic for a system that runs."""
        servers = world.every_server()
        self.world = world
        self.history = History(servers=len(servers), staleness=STALENESS, ttl=TTL, grace=GRACE)
        self.history.births = {server.place: [now()] for server in servers}
        self.traffic = Traffic(world, self.history, seed)

    # Faults

    @contextmanager
    def cut_off(self, region: int) -> Iterator[float]:
        """Cuts a region off for a block; yields when."""
        spans = [f"store:{server.place}" for server in self.world.servers[region]]
        asked = now()
        self.world.wan.cut_off(region)
        for span in spans:
            self.history.span(span, asked)
        self.history.event(f"region {region} is cut off")
        try:
            yield asked
        finally:
            with self.history.ending(spans[0]), self.history.ending(spans[1]):
                self.world.wan.mend()
            self.history.event("mended")

    @contextmanager
    def asleep(self, region: int) -> Iterator[None]:
        """Lets a region's servers sleep for a block."""
        spans = [f"paused:{server.place}" for server in self.world.servers[region]]
        for server, span in zip(self.world.servers[region], spans, strict=True):
            asked = now()
            server.signal(signal.SIGSTOP)
            self.history.span(span, asked)
        try:
            yield
        finally:
            with self.history.ending(spans[0]), self.history.ending(spans[1]):
                for server in self.world.servers[region]:
                    server.signal(signal.SIGCONT)

    # What callers saw

    def uses(self, of: Live, since: float, until: float, regions: tuple[int, ...]) -> list[Use]:
        """Returns the uses of a cluster in some regions that began in a time."""
        names = {server.name for n in regions for server in self.world.servers[n]}
        return [
            use
            for use in list(self.history.uses)
            if use.cluster == of.name
            and since <= use.attempt.start < until
            and use.attempt.server in names
        ]

    def timed(self, request: Request, region: int) -> Attempt:
        """Revokes or restores the timed cluster from a region, as soon as that can be done."""
        server = self.world.servers[region][0]
        with grpc.insecure_channel(server.target) as channel:
            way = Way(service.KeyManagementServiceStub(channel), server.name)
            change = self.traffic.places[0].carry_out([way], self.traffic.timed, request)
        assert change.attempts[-1].answer.done, change.attempts[-1]
        return change.attempts[-1]

    def revoked(self, regions: tuple[int, ...], since: float) -> float:
        """Returns the seconds from a time to the last use of the timed cluster in some regions."""
        time.sleep(1.0)
        uses = self.uses(self.traffic.timed, since, now(), regions)
        return (
            max((use.attempt.end for use in uses if use.attempt.answer.done), default=since) - since
        )

    def settled(self) -> float:
        """Waits until all is well again; returns how many seconds that took."""
        took = self.world.until(self.world.in_sync, _RECOVERY)
        return took + self.world.until(self._all_serve, _RECOVERY)

    def _all_serve(self) -> bool:
        since = now() - 2.0
        uses = self.uses(self.traffic.warm, since, now(), REGIONS)
        serving = {use.attempt.server for use in uses if use.attempt.answer.done}
        return len(serving) == len(self.world.every_server()) and all(
            use.attempt.answer.done for use in uses
        )

    def split(self) -> tuple[int, tuple[int, ...]]:
        """Returns the primary's region, and the others."""
        primary = self.world.primary()
        assert primary is not None
        return primary, tuple(region for region in REGIONS if region != primary)

    def none_failed(self, since: float, until: float, regions: tuple[int, ...]) -> None:
        """Checks that every use of the warm cluster in some regions succeeded in a time."""
        uses = self.uses(self.traffic.warm, since, until, regions)
        assert {use.attempt.server for use in uses} == {
            server.name for n in regions for server in self.world.servers[n]
        }
        failed = [use for use in uses if not use.attempt.answer.done]
        assert not failed, (len(failed), len(uses), failed[:3])

    def violations(self) -> list[Violation]:
        """Validates the history, and what the system holds at the end."""
        found = validate(self.history)
        server = self.world.servers[1][0]
        with grpc.insecure_channel(server.target) as channel:
            stub = service.KeyManagementServiceStub(channel)
            for live in self.traffic.live:
                kept = [blob for blob in self.history.blobs if blob.cluster == live.name]
                found += cluster_left(stub, self.history, live.name, kept)
        return found


def primarys_region_is_cut_off(drill: Drill) -> dict[str, float]:
    """The region of the primary is cut off, for longer than a server may go without its store."""
    lost, others = drill.split()
    with drill.cut_off(lost) as cut:
        drill.timed(REVOKE, others[0])
        again = drill.revoked(others, cut)
        drill.world.until(lambda: now() > cut + STALENESS + 5.0, _RECOVERY)
        mended = now()
    behind = drill.uses(drill.traffic.warm, cut, mended, (lost,))
    stopped = max(use.attempt.end for use in behind if use.attempt.answer.done) - cut
    drill.none_failed(cut, mended, others)
    back = drill.settled()
    drill.timed(RESTORE, lost)
    return {"revoked again after": again, "cut-off region served for": stopped, "back": back}


def two_failovers_in_a_row(drill: Drill) -> dict[str, float]:
    """As soon as the first region is back, the new primary's is cut off."""
    told: dict[str, float] = {}
    for which in ("first", "second"):
        found = primarys_region_is_cut_off(drill)
        told |= {f"{which}: {what}": seconds for what, seconds in found.items()}
    return told


def servers_sleep_through_a_failover(drill: Drill) -> dict[str, float]:
    """The servers of one region sleep while another region takes the database over."""
    lost, (asleep, awake) = drill.split()
    with drill.asleep(asleep), drill.cut_off(lost) as cut:
        drill.timed(REVOKE, awake)
        again = drill.revoked((awake,), cut)
        drill.world.until(lambda: now() > cut + STALENESS + 5.0, _RECOVERY)
    back = drill.settled()
    drill.timed(RESTORE, asleep)
    return {"revoked again after": again, "back": back}


def etcd_loses_its_quorum(drill: Drill) -> dict[str, float]:
    """Two of three etcds end. The primary can reach every member, so it goes on (failsafe mode)."""
    began, gone = now(), REGIONS[1:]
    for region in gone:
        drill.world.members[region].stop("etcd")
    time.sleep(30.0)  # longer than the primary's lease
    asked = now()
    drill.timed(REVOKE, REGIONS[0])
    again = drill.revoked(REGIONS, asked)
    for region in gone:
        drill.world.members[region].start_etcd(len(REGIONS))
    back = drill.settled()
    drill.none_failed(began, now(), REGIONS)
    drill.timed(RESTORE, REGIONS[0])
    return {"revoked without quorum after": again, "back": back}


def revocations_reach_every_region(drill: Drill) -> dict[str, float]:
    """Each region revokes, and nobody anywhere uses the key once that is answered."""
    answered, ended, restored = [], [], []
    for number in range(ROUNDS):
        region = REGIONS[number % len(REGIONS)]
        began = now()
        revoked = drill.timed(REVOKE, region)
        answered.append(revoked.end - revoked.start)
        ended.append(drill.revoked(REGIONS, began))
        back = drill.timed(RESTORE, region)
        restored.append(back.end - back.start)
        time.sleep(1.0)  # the key is in every server's memory again
    return {
        "revoke answered, slowest": max(answered),
        "last use after the call, slowest": max(ended),
        "restore answered, slowest": max(restored),
    }


SCENES: Final[dict[str, Callable[[Drill], dict[str, float]]]] = {
    scene.__name__: scene
    for scene in (
        revocations_reach_every_region,
        primarys_region_is_cut_off,
        two_failovers_in_a_row,
        servers_sleep_through_a_failover,
        etcd_loses_its_quorum,
    )
}
"""The scenes, by name."""
