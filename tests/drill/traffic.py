"""Applications and operators in each region, who write down what they see."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

import grpc

from behaviour import Request
from chaos.board import Live
from chaos.calls import Caller, Way
from chaos.history import Change, History, now
from chaos.wishes import REGIONS, wish
from drill.regions import KEYS, NAMES, SERVERS, RegionServer, World
from keyfold.v1 import key_management_service_pb2_grpc as service

CHANGED: Final = 3
"""Clusters that operators of all regions change."""

_TIMEOUT: Final = 8.0
_PATIENCE: Final = 90.0
"""Seconds for which an operator repeats a request whose outcome is not known."""

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_reconnect_backoff_ms", 500),
)


ENABLE: Final = Request("Enable", REGIONS, tuple((region, KEYS[region][0]) for region in REGIONS))
"""Makes a cluster in all regions, each under a root key of its own region."""


class Calls:
    """Ways to servers, for as long as a `with` lasts."""

    def __init__(self, servers: Sequence[RegionServer]) -> None:
        """Takes the servers."""
        self._servers = servers
        self._open = ExitStack()

    def __enter__(self) -> list[Way]:
        ways = []
        for server in self._servers:
            channel = self._open.enter_context(grpc.insecure_channel(server.target, _OPTIONS))
            ways.append(Way(service.KeyManagementServiceStub(channel), server.name))
        return ways

    def __exit__(self, *_: object) -> None:
        self._open.close()


class Place(threading.Thread):
    """One region's operator, or with `changes` false its application."""

    def __init__(
        self,
        number: int,
        region: int,
        world: World,
        live: list[Live],
        history: History,
        seed: int,
        *,
        changes: bool,
    ) -> None:
        """Prepares the thread; `start` begins its calls, and setting `ended` ends them.

        Args:
            number: Its number in the history.
            region: Its region.
            world: The system.
            live: The clusters that all share, those of `CHANGED` first.
            history: The history that it writes to.
            seed: Seed of its draws.
            changes: Whether it makes changes, or uses keys.
        """
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self._own = world.servers[region]
        self._all = world.every_server()
        self._serves = {
            server.name: tuple(NAMES[number] for number in server.serves) for server in self._all
        }
        self._live = live
        self._history = history
        self._number = number
        self._caller = Caller(number, history)
        self._random = random.Random(seed)
        self._changes = changes
        self._ids = 0

    def run(self) -> None:
        """Calls until `ended` is set."""
        try:
            with Calls(self._own) as own, Calls(self._all) as everywhere:
                while not self.ended.is_set():
                    if self._changes:
                        self._change(own, everywhere)
                    else:
                        self._use(own)
        except BaseException as error:  # noqa: BLE001  whoever joins the thread reads it
            self.failure = error

    def _use(self, ways: list[Way]) -> None:
        """Uses a key of each cluster on each server, and sometimes wraps a new one."""
        for live in self._live:
            kept = live.blobs[-24:]
            for way in ways:
                # Now and then a key of a region that the server does not serve.
                wrong = self._random.random() < 0.02
                mine = [blob for blob in kept if wrong or blob.region in self._serves[way.server]]
                if mine:
                    self._caller.unwrap(way, self._random.choice(mine))
            if live.shown and self._random.random() < 0.05:
                way = self._random.choice(ways)
                served = [name for name, _ in live.shown if name in self._serves[way.server]]
                if served:
                    region, plaintext = self._random.choice(served), self._random.randbytes(16)
                    blob = self._caller.wrap(way, live.name, region, plaintext)
                    if blob is not None:
                        live.blobs.append(blob)
        self.ended.wait(0.1)

    def _change(self, own: list[Way], everywhere: list[Way]) -> None:
        live = self._random.choice(self._live[:CHANGED])
        request = wish(self._random, live.shown, KEYS)
        if request.method != "Revoke":
            # Whatever asks a KMS is for control replicas; any replica revokes.
            own, everywhere = own[-1:], [way for way in everywhere if self._control(way)]
        self.carry_out(own, live, request, everywhere)
        self.ended.wait(self._random.uniform(0.2, 1.5))

    def _control(self, way: Way) -> bool:
        return self._serves[way.server] == REGIONS

    def carry_out(
        self,
        ways: list[Way],
        live: Live,
        request: Request,
        further: Sequence[Way] = (),
        timeout: float = _TIMEOUT,
    ) -> Change:
        """Asks for a change, and again with the same request_id while its outcome is not known.

        Args:
            ways: Where to ask first.
            live: The cluster.
            request: The change.
            further: Where to ask again; empty for `ways`.
            timeout: Seconds for each attempt.
        """
        self._ids += 1
        change = Change(self._number, live.name, request, f"{live.name}-{self._number}-{self._ids}")
        self._history.changes.append(change)
        gives_up = now() + _PATIENCE
        way = self._random.choice(ways)
        while True:
            attempt = self._caller.change(way, change, timeout)
            if attempt.answer.told:
                live.shown = attempt.answer.shown
            if not attempt.answer.unknown or now() > gives_up or self.ended.is_set():
                return change
            way = self._random.choice(further or ways)
            self.ended.wait(0.2)


class Traffic:
    """The threads of all regions.

    Attributes:
        history: What they saw.
        live: The clusters: first those that operators change.
        timed: The cluster that a scene revokes and restores, to see how long that takes.
        warm: The cluster that nobody changes, so that every use of it must succeed.
        further: Clusters of a scene's own.
    """

    def __init__(self, world: World, history: History, seed: int) -> None:
        """Prepares the threads, and makes the cluster that nobody changes."""
        self.history = history
        changed = [Live(f"changed-{seed}-{number}") for number in range(CHANGED)]
        self.timed, self.warm = Live(f"timed-{seed}"), Live(f"warm-{seed}")
        self.further: list[Live] = []
        self.live = [*changed, self.timed, self.warm]
        draw = random.Random(seed)
        self.places = [
            Place(
                2 * n + changes, n, world, self.live, history, draw.getrandbits(32), changes=changes
            )
            for n in world.servers
            for changes in (False, True)
        ]
        self._warm(world)

    def _warm(self, world: World) -> None:
        """Makes the clusters, and has every server load every key of them."""
        caller = Caller(0, self.history)
        servers = world.every_server()
        with Calls(servers) as ways:
            for live in self.live:
                self.made(live, ways[SERVERS])
                for blob in live.blobs:
                    for server, way in zip(servers, ways, strict=True):
                        if blob.region in {NAMES[number] for number in server.serves}:
                            caller.unwrap(way, blob)

    def made(self, live: Live, way: Way) -> Change:
        """Makes a cluster in all regions at a control replica, and wraps a key in each."""
        enabled = self.places[0].carry_out([way], live, ENABLE)
        for region in REGIONS:
            blob = Caller(0, self.history).wrap(way, live.name, region, b"k" * 32)
            assert blob is not None
            live.blobs.append(blob)
        return enabled

    @staticmethod
    def rotated(live: Live) -> Request:
        """Returns the request that moves a cluster to each region's other key."""
        there = dict(live.shown or ())
        moved = tuple(
            (name, next(uri for uri in KEYS[name] if uri != region.uri))
            for name, region in there.items()
        )
        return Request("Rotate", tuple(there), moved)

    def start(self) -> None:
        """Begins the calls."""
        for place in self.places:
            place.start()

    def stop(self) -> None:
        """Ends the calls.

        Raises:
            BaseException: A thread failed.
        """
        for place in self.places:
            place.ended.set()
        for place in self.places:
            place.join(30)
            if place.failure is not None:
                raise place.failure
            assert not place.is_alive()
