"""Clients: threads that change and use the same few clusters, and write down what they see.

A client gives up a call early now and then, and repeats a request whose outcome it does not know
with the same request_id until it knows; some are repeated though their answer came.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from chaos.fleet import ChaosServer
from chaos.history import Answer, Attempt, Blob, Change, History, Look, Use, now
from chaos.model import Region, Request, State, state_of
from e2e.wire import refusal
from keyfold.v1 import key_management_service_pb2 as pb
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res

REGIONS: Final = ("eu", "us", "ap")
URIS: Final = ("local:a", "local:b")
TWINS_URI: Final = "local:twins"
TWINS: Final = {"twin-asked": 0, "twin-warm": 60}
"""Two clusters whose region eu is under one root key that is never rotated, by its cache TTL: one
asks the key service on every call, the other lives from memory, so a refusal to the first must
reach it."""

LIVE: Final = 3
"""Clusters that are changed at a time."""

CHANGES: Final = 36
"""Changes of one cluster, after which another takes its place."""

PATIENCE: Final = 8.0
"""Seconds for which a client repeats a request whose outcome it does not know."""

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)

UNKNOWN: Final = frozenset({"", "DEADLINE_EXCEEDED", "STORE_UNAVAILABLE", "REQUEST_IN_PROGRESS"})
"""Reasons that leave open whether a change was made; empty: gRPC's own errors."""


@dataclass(slots=True)
class Live:
    """A cluster that clients share."""

    name: str
    changes: int = 0
    shown: State = None
    blobs: list[Blob] = field(default_factory=list)


class Board:
    """What clients share: the clusters of now, and those of before."""

    def __init__(self) -> None:
        """Begins with the first clusters."""
        self._lock = threading.Lock()
        self._count = 0
        self.old: list[Live] = []
        self.twins = [Live(name) for name in TWINS]
        self.live = [self._next() for _ in range(LIVE)]

    def _next(self) -> Live:
        self._count += 1
        return Live(f"c{self._count}")

    def pick(self, random_: random.Random) -> Live:
        """Returns a cluster to change, counting that."""
        with self._lock:
            place = random_.randrange(LIVE)
            chosen = self.live[place]
            chosen.changes += 1
            if chosen.changes > CHANGES:
                self.old.append(chosen)
                chosen = self.live[place] = self._next()
            return chosen


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
        """Prepares to call; `start` begins, setting `ended` ends.

        Args:
            number: Its number.
            servers: Whom it may call.
            board: The clusters.
            history: Where it writes down what it sees.
            seed: Draws what it does.
            changes: Whether it makes changes too, or only uses keys.
        """
        super().__init__(name=f"client-{number}", daemon=True)
        self.number = number
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self._servers = servers
        self._board = board
        self._history = history
        self._random = random.Random(seed)
        self._changes = changes
        self._ids = 0
        self._stubs: list[service.KeyManagementServiceStub] = []

    def run(self) -> None:
        """Calls until it is told to end."""
        try:
            with ExitStack() as stack:
                for server in self._servers:
                    channel = grpc.insecure_channel(server.target, options=_OPTIONS)
                    stack.enter_context(channel)
                    self._stubs.append(service.KeyManagementServiceStub(channel))
                while not self.ended.is_set():
                    self._step()
        except BaseException as error:  # noqa: BLE001  whoever joins looks at it
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
            self._look(self._random.choice(self._board.live))
        elif draw < 0.2:
            self._burst(self._board.pick(self._random))
        elif draw < 0.35:
            # Of their other region, so that what is in memory of both is read and opened anew.
            method = self._random.choice(["Revoke", "Restore"])
            self._carry_out(self._random.choice(self._board.twins), Request(method, ("us",)))
        else:
            self._change(self._board.pick(self._random))
        self.ended.wait(self._random.uniform(0, 0.006))

    # Changes

    def enable_twins(self) -> None:
        """Makes the two clusters that share a root key; called before the threads start."""
        with grpc.insecure_channel(self._servers[0].target, options=_OPTIONS) as channel:
            stub = service.KeyManagementServiceStub(channel)
            for name, ttl in TWINS.items():
                spec = _spec("eu", TWINS_URI)
                spec.policy.cache_ttl.seconds = ttl
                spec.policy.outage_grace.seconds = 0
                specs = [spec, _spec("us", URIS[0])]
                self._made(name, stub, pb.EnableRequest(cluster=name, region_specs=specs))

    def _made(self, name: str, stub: Any, asked: pb.EnableRequest) -> None:
        start = now()
        answer = stub.Enable(asked, timeout=10)
        told = Answer(shown=_shown(answer.status), told=True)
        uris = (("eu", TWINS_URI), ("us", URIS[0]))
        change = Change(self.number, name, Request("Enable", ("eu", "us"), uris), "")
        change.attempts.append(Attempt(start, now(), self._servers[0].name, told))
        self._history.changes.append(change)
        next(twin for twin in self._board.twins if twin.name == name).shown = told.shown

    def _wanted(self, live: Live) -> Request:
        """Draws a change that makes sense more often than not."""
        there = dict(live.shown or ())
        choose = self._random
        if not there:
            names = sorted(choose.sample(REGIONS, choose.randint(1, 2)))
            return Request("Enable", tuple(names), tuple((n, choose.choice(URIS)) for n in names))
        some = tuple(sorted(choose.sample(sorted(there), choose.randint(1, len(there)))))
        draw = choose.random()
        if draw < 0.06:
            return Request(
                "Enable", tuple(there), tuple((n, region.uri) for n, region in there.items())
            )
        if draw < 0.16:
            names = sorted(choose.sample(REGIONS, choose.randint(1, 2)))
            uris = tuple(
                (n, there[n].uri if n in there and choose.random() < 0.8 else choose.choice(URIS))
                for n in names
            )
            return Request("AddRegions", tuple(names), uris)
        revoked = sum(region.revoked for region in there.values())
        if choose.random() < (0.6 if revoked else 0.1):
            return Request("Restore", () if choose.random() < 0.5 else some)
        if draw < 0.40:
            return Request("Revoke", () if choose.random() < 0.5 else some)
        moved = tuple((n, choose.choice(URIS)) for n in some if choose.random() < 0.4)
        return Request("Rotate", some, moved, fresh=choose.random() < 0.5)

    def _change(self, live: Live) -> None:
        self._carry_out(live, self._wanted(live))

    def _carry_out(self, live: Live, request: Request) -> None:
        request_id = ""
        if self._random.random() < 0.85:
            self._ids += 1
            request_id = f"{self.number}-{self._ids}"
        change = Change(self.number, live.name, request, request_id)
        self._history.changes.append(change)
        gives_up = now() + PATIENCE
        more = 1 if self._random.random() < 0.12 else 0
        while True:
            attempt = self._attempt(change)
            change.attempts.append(attempt)
            answer = attempt.answer
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

    def _burst(self, live: Live) -> None:
        """Rotates, so that nothing is in memory, and revokes while others read it again."""
        there = dict(live.shown or ())
        if not there:
            return
        for request in (Request("Rotate", tuple(there)), Request("Revoke")):
            change = Change(self.number, live.name, request, "")
            self._history.changes.append(change)
            change.attempts.append(self._attempt(change))

    def _attempt(self, change: Change) -> Attempt:
        stub, server = self._any()
        # An impatient caller cancels nothing (protocol W1).
        hasty = change.request.method != "Revoke" and self._random.random() < 0.12
        timeout = self._random.uniform(0.002, 0.03) if hasty else 6.0
        call = getattr(stub, change.request.method)
        asked = _message(change)
        start = now()
        try:
            answer = _answer(call(asked, timeout=timeout))
        except grpc.RpcError as error:
            answer = _refusal(error)
        return self._paced(Attempt(start, now(), server, answer))

    # Looking and using

    def _look(self, live: Live) -> None:
        stub, server = self._any()
        start = now()
        try:
            reply = stub.GetStatus(pb.GetStatusRequest(cluster=live.name), timeout=6)
            answer = Answer(shown=_shown(reply.status), told=True)
        except grpc.RpcError as error:
            answer = _refusal(error)
        attempt = self._paced(Attempt(start, now(), server, answer))
        self._history.looks.append(Look(self.number, live.name, attempt))

    def _use(self, live: Live) -> None:
        draw = self._random.random()
        if not live.blobs or draw < 0.35:
            regions = [name for name, _ in live.shown or ()] or list(REGIONS)
            self._wrap(live, self._random.choice(regions))
        elif draw < 0.85:
            self._unwrap(live, self._random.choice(live.blobs))
        else:
            self._rewrap(live, self._random.choice(live.blobs))

    def _wrap(self, live: Live, region: str) -> None:
        stub, server = self._any()
        plaintext = self._random.randbytes(16)
        start = now()
        try:
            reply = stub.Wrap(
                pb.WrapRequest(cluster=live.name, region=region, plaintext=plaintext), timeout=6
            )
        except grpc.RpcError as error:
            self._used("Wrap", live.name, region, Attempt(start, now(), server, _refusal(error)))
            return
        self._used(
            "Wrap", live.name, region, Attempt(start, now(), server, Answer()), reply.generation
        )
        self._keep(live, Blob(live.name, region, reply.generation, plaintext, reply.wrapped_key))

    def _keep(self, live: Live, blob: Blob) -> None:
        live.blobs.append(blob)
        self._history.blobs.append(blob)

    def _unwrap(self, live: Live, blob: Blob) -> None:
        stub, server = self._any()
        start = now()
        try:
            reply = stub.Unwrap(
                pb.UnwrapRequest(cluster=blob.cluster, wrapped_key=blob.wrapped), timeout=6
            )
        except grpc.RpcError as error:
            answer = _refusal(error)
            self._used("Unwrap", live.name, blob.region, Attempt(start, now(), server, answer))
            return
        self._used(
            "Unwrap",
            live.name,
            blob.region,
            Attempt(start, now(), server, Answer()),
            reply.generation,
            opened(blob, reply),
        )

    def _rewrap(self, live: Live, blob: Blob) -> None:
        stub, server = self._any()
        asked = pb.RewrapRequest(cluster=blob.cluster, wrapped_key=blob.wrapped)
        start = now()
        try:
            reply = stub.Rewrap(asked, timeout=6)
        except grpc.RpcError as error:
            answer = _refusal(error)
            self._used("Rewrap", live.name, blob.region, Attempt(start, now(), server, answer))
            return
        wrong = ""
        if reply.already_current != (reply.wrapped_key == blob.wrapped):
            wrong = "already_current does not say whether it is the same wrapped key"
        elif reply.generation < blob.generation:
            wrong = f"moved back from generation {blob.generation} to {reply.generation}"
        attempt = Attempt(start, now(), server, Answer())
        self._used("Rewrap", live.name, blob.region, attempt, reply.generation, wrong)
        if not reply.already_current:
            moved = Blob(
                blob.cluster, blob.region, reply.generation, blob.plaintext, reply.wrapped_key
            )
            self._keep(live, moved)

    def _used(
        self,
        method: str,
        cluster: str,
        region: str,
        attempt: Attempt,
        generation: int = 0,
        wrong: str = "",
    ) -> None:
        use = Use(self.number, cluster, region, method, attempt, generation, wrong)
        self._history.uses.append(use)
        self._paced(attempt)

    def _any(self) -> tuple[service.KeyManagementServiceStub, str]:
        place = self._random.randrange(len(self._stubs))
        return self._stubs[place], self._servers[place].name

    def _paced(self, attempt: Attempt) -> Attempt:
        """Waits a moment where nobody is there to answer."""
        if attempt.answer.reason in {"UNAVAILABLE", "STORE_STALE", "STORE_UNAVAILABLE"}:
            time.sleep(0.02)
        return attempt


def opened(blob: Blob, reply: pb.UnwrapResponse) -> str:
    """Says what is wrong with a wrapped key's opening; empty: nothing."""
    if reply.plaintext != blob.plaintext:
        return "it opened to another key"
    if (reply.region, reply.generation) != (blob.region, blob.generation):
        return f"it says {reply.region}/{reply.generation}, not {blob.region}/{blob.generation}"
    return ""


def _spec(region: str, uri: str | None) -> res.RegionSpec:
    spec = res.RegionSpec(region=region)
    if uri is not None:
        spec.key_spec.type = "LOCAL"
        spec.key_spec.uri = uri
    return spec


def _message(change: Change) -> Any:
    request = change.request
    common: dict[str, Any] = {"cluster": change.cluster, "request_id": change.request_id}
    if request.method in {"Revoke", "Restore"}:
        kind = pb.RevokeRequest if request.method == "Revoke" else pb.RestoreRequest
        return kind(regions=request.regions, **common)
    uris = dict(request.uris)
    specs = [_spec(name, uris.get(name)) for name in request.regions]
    if request.method == "Rotate":
        return pb.RotateRequest(region_specs=specs, new_generation=request.fresh, **common)
    kind_of = {"Enable": pb.EnableRequest, "AddRegions": pb.AddRegionsRequest}
    return kind_of[request.method](region_specs=specs, **common)


def _shown(status: res.ClusterStatus) -> State:
    """Reads a cluster off its status; numbers of generations without a gap are part of it."""
    regions = {}
    for region in status.regions:
        numbers = [generation.generation for generation in region.generations]
        assert numbers == list(range(1, len(numbers) + 1)), numbers
        revoked = region.state == res.STATE_REVOKED
        regions[region.region] = Region(region.key_spec.uri, len(numbers), revoked)
    return state_of(regions)


def _answer(reply: Any) -> Answer:
    stops = 0.0
    if isinstance(reply, pb.RevokeResponse):
        stops = max((p.stops_within.ToMicroseconds() / 1e6 for p in reply.pending), default=0.0)
    return Answer(
        shown=_shown(reply.status), told=True, replayed=reply.replayed, stops_within=stops
    )


def _refusal(error: grpc.RpcError) -> Answer:
    refused = refusal(error)
    reason = refused.reason
    if refused.code is grpc.StatusCode.INTERNAL and not reason:
        reason = "INTERNAL"
    return Answer(
        reason=reason or refused.code.name,
        unknown=reason in UNKNOWN,
        again=refused.retry_after is not None,
    )


def lives(board: Board) -> list[Live]:
    """Returns every cluster there was."""
    return [*board.twins, *board.old, *board.live]
