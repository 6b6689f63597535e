"""WatchEvents and the calls about cursors on the wire, on both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

import callers
from in_process import InProcess, running
from keyfold.errors.rpc_status import error_of_call
from keyfold.v1 import event_service_pb2 as pb
from keyfold.v1 import event_service_pb2_grpc as events
from keyfold.v1 import key_management_service_pb2 as keys
from keyfold.v1 import key_management_service_pb2_grpc as service
from keyfold.v1 import resources_pb2 as res
from keyfold_server.access.policy.file import parse
from keyfold_server.access.policy.rights import CachedPolicy
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.rpc import watch_calls
from keyfold_server.rpc.incoming.callers import Callers
from keyfold_server.rpc.messages.watch import WatchMessages
from keyfold_server.service.clock import SystemClock
from keyfold_server.service.life.requests import MutationCall
from keyfold_server.service.life.revocation import RevokeRequest
from keyfold_server.service.watch.messages import Message
from replicas import until

TRANSPORTS: Final = ("grpc", "asgi")


class Policies:
    """A policy that a test changes."""

    def __init__(self, text: str) -> None:
        self.set(text)

    def set(self, text: str) -> None:
        self._force = CachedPolicy(parse(text, "policy.toml"))

    def rights(self, identity: Identity) -> Rights:
        return self._force.rights(identity)

    @property
    def claims(self) -> frozenset[str]:
        return self._force.claims

    def believes(self, identity: Identity) -> bool:
        return self._force.policy.believes(identity)


class Client:
    """A client of one server."""

    def __init__(self, server: InProcess, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.keys = service.KeyManagementServiceStub(channel)
        self.events: Any = events.EventServiceStub(channel)

    async def enable(self, *names: str, organization: str = "") -> None:
        """Enables clusters in region eu."""
        if "fake:eu" not in self.server.provider.uris():
            self.server.provider.create_key("eu")
        spec = res.RegionSpec(region="eu", key_spec=res.KeySpec(type="FAKE", uri="fake:eu"))
        for name in names:
            await self.keys.Enable(
                keys.EnableRequest(cluster=name, region_specs=[spec], organization=organization)
            )
        feed = self.server.replica.watches._sources.feed
        newest = self.server.store_of()._transactions.history.mark().newest.number
        # A watch of events begins with what the server has polled last.
        await until(lambda: feed.newest.number >= newest)

    async def revoke(self, name: str) -> None:
        """Revokes a cluster."""
        await self.keys.Revoke(keys.RevokeRequest(cluster=name))

    def watch(self, **request: Any) -> Stream:
        """Begins a watch."""
        return Stream(self.events.WatchEvents(pb.WatchEventsRequest(**request)))


class Stream:
    """A stream, read in the background.

    Attributes:
        got: The messages.
        status: The status once it has ended; its code is OK if it ended well.
    """

    def __init__(self, call: Any) -> None:
        self.call = call
        self.got: list[pb.WatchEventsResponse] = []
        self.status: Any = None
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for message in self.call:
                self.got.append(message)
            self.status = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            self.status = error

    def of(self, kind: str) -> list[Any]:
        """The messages of one kind."""
        return [getattr(m, kind) for m in self.got if m.WhichOneof("message") == kind]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once a condition is true; fails if the stream ends before."""
        await until(lambda: condition() or self.status is not None)
        assert condition(), self.status

    async def counted(self, kind: str, count: int) -> None:
        """Returns once there are so many messages of a kind."""
        await self.until(lambda: len(self.of(kind)) >= count)

    async def begun(self) -> Stream:
        """Returns once the first heartbeat is there."""
        await self.until(lambda: bool(self.of("heartbeat")))
        return self

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """Returns the code and the reason with which the stream has ended."""
        await until(lambda: self.status is not None)
        if self.status is grpc.StatusCode.OK:
            return grpc.StatusCode.OK, ""
        return self.status.code(), error_of_call(self.status).reason


@asynccontextmanager
async def serving(folder: Path, transport: str, **setup: Any) -> AsyncIterator[Client]:
    """A server and a client of it."""
    async with (
        running(folder, transport=transport, **setup) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        yield Client(server, channel)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Gives each transport in turn."""
    assert isinstance(request.param, str)
    return request.param


async def test_states_and_events_on_the_wire(tmp_path: Path, transport: str) -> None:
    """R8: one stream tells both, and each message can be resumed from."""
    async with serving(tmp_path, transport) as client:
        await client.enable("acme", "other")
        stream = await client.watch(states=True, events=True).begun()
        assert [s.cluster for s in stream.of("state")] == ["acme", "other"]
        assert stream.got[2].WhichOneof("message") == "snapshot_end"
        beat = stream.of("heartbeat")[0]
        assert beat.HasField("store_age")
        assert (beat.max_store_age.seconds, beat.number) == (120, 2)
        [region] = stream.of("state")[0].regions
        assert (region.region, region.state) == ("eu", res.STATE_ENABLED)
        assert (len(region.generations), region.cache_ttl.seconds) == (1, 60)
        await client.revoke("acme")
        await stream.until(lambda: len(stream.of("event")) == 1)
        await stream.until(lambda: len(stream.of("state")) == 3)
        revoked = stream.of("state")[2]
        assert (revoked.cluster, revoked.epoch) == ("acme", 1)
        assert revoked.regions[0].state == res.STATE_REVOKED
        assert stream.of("event")[0].action == "rpc:cluster:revoke"
        token = stream.got[-1].resume_token
        stream.call.cancel()
        await client.revoke("other")
        again = client.watch(states=True, events=True, resume_token=token)
        await again.until(lambda: bool(again.of("event") and again.of("state")))
        assert [s.cluster for s in again.of("state")] == ["other"]
        assert [e.number for e in again.of("event")] == [4]
        again.call.cancel()


async def test_a_server_that_stops_ends_its_streams_first(tmp_path: Path, transport: str) -> None:
    """R8: with UNAVAILABLE and a reason, well before its grace is over."""
    async with serving(tmp_path, transport, grace=20.0) as client:
        stream = await client.watch(states=True).begun()
        began = asyncio.get_running_loop().time()
        await client.server.stop()
        assert await stream.ended() == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert asyncio.get_running_loop().time() - began < 10


async def test_a_client_that_goes_away_gives_its_place_back(tmp_path: Path, transport: str) -> None:
    """W5: a watch that nobody reads any more ends."""
    async with serving(tmp_path, transport) as client:
        watches = client.server.replica.watches
        stream = await client.watch(states=True).begun()
        assert len(watches._running) == 1
        stream.call.cancel()
        await until(lambda: not watches._running)


async def read_out(call: Any) -> None:
    """Reads a stream to its end, and raises what has ended it."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_client_that_reads_nothing_holds_up_nobody(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5, R8: other readers get everything meanwhile, and it is told to resume once it reads on."""
    monkeypatch.setattr(watch_calls, "_STALLED", 1.0)
    encoded = WatchMessages.encoded

    def large(self: WatchMessages, message: Message, token: str, session: str, store: str) -> bytes:
        return encoded(self, message, token, session or "x" * 500_000, store)

    monkeypatch.setattr(WatchMessages, "encoded", large)
    async with serving(tmp_path, transport) as client:
        await client.enable("acme")
        watches = client.server.replica.watches
        slow = client.events.WatchEvents(pb.WatchEventsRequest(states=True))
        await slow.read()
        # A connection of its own: what HTTP/2 shares among the streams of one is no concern here.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(client.server.target, options) as channel:
            quick = await Client(client.server, channel).watch(states=True).begun()
            while len(watches._running) == 2:
                told = len(quick.of("state"))
                client.server.replica.watches.changed("acme")
                await quick.counted("state", told + 1)
            quick.call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_out(slow)
        assert error_of_call(caught.value).reason == "WATCH_TOO_SLOW"


OWN: Final = """
[[grant]]
callers = ["local"]
roles = ["admin"]
clusters = ["a-*", "b-*"]
keys = [{ type = "FAKE", uri = "fake:*", principal = "ambient" }]
"""
LESS: Final = OWN.replace(', "b-*"', "")
CRYPTO: Final = '[[grant]]\ncallers = ["local"]\nroles = ["crypto"]\nclusters = ["a-*"]\n'
NOTHING: Final = '[[grant]]\ncallers = ["spiffe://x/y"]\nroles = ["auditor"]\n'


def who(policies: Policies) -> Callers:
    """Identifies everybody as `local`."""
    return Callers(policies, callers.LOCAL, SystemClock())


async def test_rights_are_decided_again_when_the_policy_changes(
    tmp_path: Path, transport: str
) -> None:
    """C7: what a reader may no longer see does not exist for it; without any right it is ended."""
    policies = Policies(OWN)
    async with serving(tmp_path, transport, who=who(policies)) as client:
        await client.enable("a-1", "b-1")
        stream = await client.watch(states=True).begun()
        named = await client.watch(states=True, clusters=["a-1", "b-1"]).begun()
        policies.set(LESS)
        for each in (stream, named):
            await each.counted("state", 4)
            told = [(s.cluster, s.exists) for s in each.of("state")[2:]]
            assert told == [("a-1", True), ("b-1", False)]
        policies.set(NOTHING)
        for each in (stream, named):
            assert await each.ended() == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED")


async def test_whoever_may_use_keys_may_watch_states_alone(tmp_path: Path, transport: str) -> None:
    """C7: the role crypto shows state, health and generations, and no event."""
    policies = Policies(OWN)
    async with serving(tmp_path, transport, who=who(policies)) as client:
        await client.enable("a-1", "b-1")
        policies.set(CRYPTO)
        stream = await client.watch(states=True, clusters=["a-1", "b-1", "b-2", "z"]).begun()
        told = [(s.cluster, s.exists) for s in stream.of("state")]
        assert told == [("a-1", True), ("b-1", False), ("b-2", False), ("z", False)]
        for absent in told_of(stream):
            assert absent == pb.ClusterState(cluster=absent.cluster)
        assert stream.of("heartbeat")[0].number == 0
        refused = client.watch(events=True)
        assert await refused.ended() == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED")
        stream.call.cancel()


def told_of(stream: Stream) -> list[pb.ClusterState]:
    """The states of what does not exist, or is hidden."""
    return [s for s in stream.of("state") if not s.exists]


async def test_a_hidden_cluster_costs_nothing_visible(tmp_path: Path, transport: str) -> None:
    """C7: whatever happens to it, the reader gets the same messages as if nothing had."""
    policies = Policies(OWN)
    async with serving(tmp_path, transport, who=who(policies)) as client:
        await client.enable("a-1", "b-1")
        policies.set(LESS)
        stream = await client.watch(states=True, events=True).begun()
        named = await client.watch(states=True, clusters=["a-1", "b-1"]).begun()
        hidden = MutationCall(
            callers.caller(),
            "Revoke",
            "",
            RevokeRequest("b-1", (), ""),
            SystemClock().monotonic() + 9,
        )
        await client.server.replica.revocation.revoke(hidden)
        await client.revoke("a-1")
        await stream.counted("event", 1)
        for each, first in ((stream, ["a-1"]), (named, ["a-1", "b-1"])):
            await each.counted("state", len(first) + 1)
            assert [s.cluster for s in each.of("state")] == [*first, "a-1"]
        assert [e.cluster for e in stream.of("event")] == ["a-1"]
        stream.call.cancel()
        named.call.cancel()


async def test_cursors_on_the_wire(tmp_path: Path, transport: str) -> None:
    """S0: a cursor keeps a reader's place, for the reader that took it over last."""
    async with serving(tmp_path, transport) as client:
        await client.enable("acme")
        first = await client.watch(events=True, cursor="siem").begun()
        session = first.got[0].cursor_session
        assert session
        await client.revoke("acme")
        await first.until(lambda: len(first.of("event")) == 2)
        made, revoked = first.of("event")
        assert (made.action, revoked.action) == ("rpc:cursor:make", "rpc:cluster:revoke")
        token = next(m.resume_token for m in first.got if m.event.number == made.number)
        advance = pb.AdvanceCursorRequest(cursor="siem", session=session, resume_token=token)
        moved = await client.events.AdvanceCursor(advance)
        assert (moved.cursor.number, moved.cursor.behind) == (made.number, 1)
        second = await client.watch(events=True, cursor="siem").begun()
        assert await first.ended() == (grpc.StatusCode.ABORTED, "CURSOR_TAKEN")
        await second.until(lambda: bool(second.of("event")))
        assert second.of("event")[0].number == revoked.number
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.events.AdvanceCursor(advance)
        assert error_of_call(caught.value).reason == "CURSOR_TAKEN"
        listed = await client.events.ListCursors(pb.ListCursorsRequest())
        [cursor] = listed.cursors
        assert (cursor.name, cursor.caller, cursor.number) == ("siem", "local", made.number)
        assert cursor.expire_time.seconds - cursor.advance_time.seconds == 30 * 86_400
        await client.events.DeleteCursor(pb.DeleteCursorRequest(cursor="siem"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.events.DeleteCursor(pb.DeleteCursorRequest(cursor="siem"))
        assert error_of_call(caught.value).reason == "CURSOR_NOT_FOUND"
        # Nobody has taken over what does not exist, whatever session the caller presents.
        for wrong in (session, "", "no session"):
            advance.session = wrong
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.events.AdvanceCursor(advance)
            assert error_of_call(caught.value).reason == "CURSOR_NOT_FOUND"
        second.call.cancel()
