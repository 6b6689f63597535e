"""Applications and operators in each region, who write down what they see."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from typing import Final

import grpc

from behaviour import Request
from chaos.board import Live
from chaos.calls import Caller, Way
from chaos.history import Change, History, now
from chaos.wishes import REGIONS, URIS, wish
from drill.regions import RegionServer, World
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


class Place(threading.Thread):
    """One region's operator, or with `changes` false its application."""

    def __init__(
        self,
        number: int,
        servers: list[RegionServer],
        live: list[Live],
        history: History,
        seed: int,
        *,
        changes: bool,
    ) -> None:
        """Prepares the thread; `start` begins its calls, and setting `ended` ends them.

        Args:
            number: Its number in the history.
            servers: Its region's servers.
            live: The clusters that all share, those of `CHANGED` first.
            history: The history that it writes to.
            seed: Seed of its draws.
            changes: Whether it makes changes, or uses keys.
        """
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self._number = number
        self._servers = servers
        self._live = live
        self._history = history
        self._caller = Caller(number, history)
        self._random = random.Random(seed)
        self._changes = changes
        self._ids = 0

    def run(self) -> None:
        """Calls until `ended` is set."""
        try:
            with ExitStack() as stack:
                ways = []
                for server in self._servers:
                    channel = grpc.insecure_channel(server.target, options=_OPTIONS)
                    stack.enter_context(channel)
                    stub = service.KeyManagementServiceStub(channel)
                    ways.append(Way(stub, server.name))
                while not self.ended.is_set():
                    if self._changes:
                        self._change(ways)
                    else:
                        self._use(ways)
        except BaseException as error:  # noqa: BLE001  whoever joins the thread reads it
            self.failure = error

    def _use(self, ways: list[Way]) -> None:
        """Uses a key of each cluster on each server, and sometimes wraps a new one."""
        for live in self._live:
            kept = live.blobs[-8:]
            for way in ways:
                if kept:
                    self._caller.unwrap(way, self._random.choice(kept))
            if live.shown and (not kept or self._random.random() < 0.05):
                region = self._random.choice([name for name, _ in live.shown])
                blob = self._caller.wrap(ways[0], live.name, region, self._random.randbytes(16))
                if blob is not None:
                    live.blobs.append(blob)
        self.ended.wait(0.1)

    def _change(self, ways: list[Way]) -> None:
        live = self._random.choice(self._live[:CHANGED])
        self.carry_out(ways, live, wish(self._random, live.shown))
        self.ended.wait(self._random.uniform(0.2, 1.5))

    def carry_out(self, ways: list[Way], live: Live, request: Request) -> Change:
        """Asks for a change, and again with the same request_id while its outcome is not known."""
        self._ids += 1
        change = Change(self._number, live.name, request, f"{live.name}-{self._number}-{self._ids}")
        self._history.changes.append(change)
        gives_up = now() + _PATIENCE
        # A socket's path is the caller's name, so at another server it would be another request.
        way = self._random.choice(ways)
        while True:
            attempt = self._caller.change(way, change, _TIMEOUT)
            if attempt.answer.told:
                live.shown = attempt.answer.shown
            if not attempt.answer.unknown or now() > gives_up or self.ended.is_set():
                return change
            self.ended.wait(0.2)


class Traffic:
    """The threads of all regions.

    Attributes:
        history: What they saw.
        live: The clusters: first those that operators change.
        timed: The cluster that a scene revokes and restores, to see how long that takes.
        warm: The cluster that nobody changes, so that every use of it must succeed.
    """

    def __init__(self, world: World, history: History, seed: int) -> None:
        """Prepares the threads, and makes the cluster that nobody changes."""
        self.history = history
        changed = [Live(f"changed-{seed}-{number}") for number in range(CHANGED)]
        self.timed, self.warm = Live(f"timed-{seed}"), Live(f"warm-{seed}")
        self.live = [*changed, self.timed, self.warm]
        draw = random.Random(seed)
        self.places = [
            Place(
                2 * n + changes, servers, self.live, history, draw.getrandbits(32), changes=changes
            )
            for n, servers in world.servers.items()
            for changes in (False, True)
        ]
        self._warm(world)

    def _warm(self, world: World) -> None:
        """Makes the clusters, and has every server load every key of them."""
        request = Request("Enable", REGIONS, tuple((region, URIS[0]) for region in REGIONS))
        caller = Caller(0, self.history)
        with ExitStack() as stack:
            ways = []
            for server in world.every_server():
                channel = stack.enter_context(grpc.insecure_channel(server.target))
                ways.append(Way(service.KeyManagementServiceStub(channel), server.name))
            for live in self.live:
                self.places[0].carry_out(ways[:1], live, request)
                for region in REGIONS:
                    blob = caller.wrap(ways[0], live.name, region, b"k" * 32)
                    assert blob is not None
                    live.blobs.append(blob)
                    for way in ways:
                        caller.unwrap(way, blob)

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
