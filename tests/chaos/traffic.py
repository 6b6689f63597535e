"""Clients: threads that change and use the same few clusters, and write down what they see.

A client sometimes gives up a call early. It repeats a request whose outcome it does not know, with
the same request_id, until it knows; it also repeats some requests that were answered.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from contextlib import ExitStack
from typing import Any, Final

import grpc

from behaviour import Request
from chaos.board import TWINS, TWINS_GRACE, TWINS_URI, Board, Live
from chaos.calls import TIMEOUT, Caller, Way
from chaos.history import Answer, Attempt, Change, History, now
from chaos.messages import shown, spec_of
from chaos.servers import ChaosServer
from chaos.wishes import REGIONS, URIS, wish
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service

PATIENCE: Final = 8.0
"""Seconds for which a client repeats a request whose outcome it does not know."""

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class Client(threading.Thread):
    """One client."""

    def __init__(
        self,
        number: int,
        servers: list[ChaosServer],
        board: Board,
        history: History,
        seed: int,
        *,
        changes: bool,
    ) -> None:
        """Prepares the client; `start` begins its calls, and setting `ended` ends them.

        Args:
            number: Its number.
            servers: The servers that it may call.
            board: The clusters.
            history: The history that it writes to.
            seed: Seed of its draws.
            changes: Whether it makes changes too, or only uses keys.
        """
        super().__init__(name=f"client-{number}", daemon=True)
        self.number = number
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self._servers = servers
        self._board = board
        self._history = history
        self._caller = Caller(number, history)
        self._random = random.Random(seed)
        self._changes = changes
        self._ids = 0
        self._asked: deque[Change] = deque(maxlen=30)
        self._stubs: list[service.KeyManagementServiceStub] = []

    def run(self) -> None:
        """Calls until `ended` is set."""
        try:
            with ExitStack() as stack:
                for server in self._servers:
                    channel = grpc.insecure_channel(server.target, options=_OPTIONS)
                    stack.enter_context(channel)
                    self._stubs.append(service.KeyManagementServiceStub(channel))
                while not self.ended.is_set():
                    self._step()
        except BaseException as error:  # noqa: BLE001  whoever joins the thread reads it
            self.failure = error

    def _step(self) -> None:
        draw = self._random.random()
        if not self._changes:
            if draw < 0.3:
                self._use(self._random.choice(self._board.twins))
            elif draw < 0.4 and self._board.old:
                self._use(self._random.choice(self._board.old))
            else:
                self._use(self._random.choice(self._board.live))
        elif draw < 0.1:
            self._caller.look(self._any(), self._random.choice(self._board.live).name)
        elif draw < 0.2:
            self._burst(self._board.pick(self._random))
        elif draw < 0.26 and self._asked:
            self._repeat(self._random.choice(self._asked))
        elif draw < 0.32:
            self._storm(self._board.pick(self._random))
        elif draw < 0.42:
            # It changes the clusters' other region, so that servers read and open both anew.
            method = self._random.choice(["Revoke", "Restore"])
            self._carry_out(self._random.choice(self._board.twins), Request(method, ("us",)))
        else:
            self._change(self._board.pick(self._random))
        self.ended.wait(self._random.uniform(0, 0.006))

    # Changes

    def enable_twins(self) -> None:
        """Makes the two clusters that share a root key; called before the threads start."""
        # With the clients' options a call fails that has no connection after half a second.
        with grpc.insecure_channel(self._servers[0].target) as channel:
            stub = service.KeyManagementServiceStub(channel)
            for name, ttl in TWINS.items():
                spec = spec_of("eu", TWINS_URI)
                spec.policy.cache_ttl.seconds = ttl
                spec.policy.outage_grace.seconds = TWINS_GRACE
                specs = [spec, spec_of("us", URIS[0])]
                self._made(name, stub, pb.EnableRequest(cluster=name, region_specs=specs))

    def _made(self, name: str, stub: Any, asked: pb.EnableRequest) -> None:
        start = now()
        answer = stub.Enable(asked, timeout=10)
        told = Answer(shown=shown(answer.status), told=True)
        uris = (("eu", TWINS_URI), ("us", URIS[0]))
        change = Change(self.number, name, Request("Enable", ("eu", "us"), uris), "")
        change.attempts.append(Attempt(start, now(), self._servers[0].name, told))
        self._history.changes.append(change)
        next(twin for twin in self._board.twins if twin.name == name).shown = told.shown

    def _change(self, live: Live) -> None:
        self._carry_out(live, wish(self._random, live.shown))

    def _carry_out(self, live: Live, request: Request) -> None:
        request_id = ""
        if self._random.random() < 0.85:
            self._ids += 1
            request_id = f"{self.number}-{self._ids}"
        change = Change(self.number, live.name, request, request_id)
        self._history.changes.append(change)
        if request_id:
            self._asked.append(change)
        gives_up = now() + PATIENCE
        more = 1 if self._random.random() < 0.12 else 0
        while True:
            answer = self._attempt(change).answer
            if answer.told:
                live.shown = answer.shown
            if not request_id or self.ended.is_set():
                return
            if answer.unknown:
                if now() > gives_up:
                    return
                self.ended.wait(self._random.uniform(0, 0.05))
            elif answer.reason or not more:
                return
            else:
                more -= 1

    def _repeat(self, change: Change) -> None:
        """Repeats a request, which other changes may have followed (R6)."""
        self._attempt(change)

    def _burst(self, live: Live) -> None:
        """Rotates, which empties the memories, and revokes while others load again."""
        there = dict(live.shown or ())
        if not there:
            return
        for request in (Request("Rotate", tuple(there)), Request("Revoke")):
            change = Change(self.number, live.name, request, "")
            self._history.changes.append(change)
            self._attempt(change)

    def _storm(self, live: Live) -> None:
        """Revokes what every server holds in memory, and uses it on every server at once (R4)."""
        there = [name for name, region in live.shown or () if not region.revoked]
        mine = [blob for blob in live.blobs[-40:] if blob.region in there]
        if not mine:
            return
        blob = mine[-1]
        every = range(len(self._stubs))
        for place in every:
            self._caller.unwrap(self._way(place), blob)
        self._carry_out(live, Request("Revoke", (blob.region,)))
        for _ in range(3):
            for place in every:
                self._caller.unwrap(self._way(place), blob)
        self._carry_out(live, Request("Restore", (blob.region,)))

    def _attempt(self, change: Change) -> Attempt:
        # A caller that gives up cancels nothing (protocol W1).
        hasty = change.request.method != "Revoke" and self._random.random() < 0.12
        timeout = self._random.uniform(0.002, 0.03) if hasty else TIMEOUT
        return self._caller.change(self._any(), change, timeout)

    # Using

    def _use(self, live: Live) -> None:
        draw = self._random.random()
        if not live.blobs or draw < 0.35:
            regions = [name for name, _ in live.shown or ()] or list(REGIONS)
            region, plaintext = self._random.choice(regions), self._random.randbytes(16)
            blob = self._caller.wrap(self._any(), live.name, region, plaintext)
        elif draw < 0.85:
            self._caller.unwrap(self._any(), self._random.choice(live.blobs))
            return
        else:
            blob = self._caller.rewrap(self._any(), self._random.choice(live.blobs))
        if blob is not None:
            live.blobs.append(blob)

    def _any(self) -> Way:
        return self._way(self._random.randrange(len(self._stubs)))

    def _way(self, place: int) -> Way:
        return Way(self._stubs[place], self._servers[place].name)
