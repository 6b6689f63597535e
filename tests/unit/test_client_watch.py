"""The client's watch: it goes on by itself, and says how old what it told is."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import keyfold
from in_process import InProcess, serving
from keyfold.calls import watch as calls
from keyfold.v1 import event_service_pb2 as api
from keyfold_server.domain.errors import StoreStaleError
from replicas import until


def enable(client: keyfold.Client, server: InProcess, *names: str) -> None:
    """Enables clusters in region eu."""
    if "fake:eu" not in server.provider.uris():
        server.provider.create_key("eu")
    key = keyfold.KeySpec("FAKE", "fake:eu")
    for name in names:
        client.enable(name, [keyfold.RegionSpec("eu", key)])


def test_a_watch_tells_states_and_goes_on_by_itself(tmp_path: Path) -> None:
    """R8: when a stream ends, the watch goes on where it was."""
    breaks: list[keyfold.KeyfoldError | None] = []
    with serving(tmp_path) as server, keyfold.Client(server.target) as client:
        enable(client, server, "acme", "other")
        with client.watch(on_break=breaks.append) as watch:
            messages = iter(watch)
            first = [next(messages) for _ in range(4)]
            acme, other, end, beat = first
            assert isinstance(acme, keyfold.ClusterState)
            assert isinstance(other, keyfold.ClusterState)
            assert (acme.cluster, acme.exists, acme.regions[0].region) == ("acme", True, "eu")
            assert acme.regions[0].state is keyfold.State.ENABLED
            assert isinstance(end, keyfold.SnapshotEnd)
            assert isinstance(beat, keyfold.Heartbeat)
            assert beat.store_age is not None
            watches = server.replica.watches
            stale = StoreStaleError("it is stale")
            server.on_loop(lambda: watches._end_all(lambda: stale))
            client.revoke("acme")
            told = next(m for m in messages if isinstance(m, keyfold.ClusterState))
            assert (told.cluster, told.epoch) == ("acme", 1)
            assert [type(one) for one in breaks] == [keyfold.StoreStaleError]


async def test_a_watch_for_asyncio(tmp_path: Path) -> None:
    """The same for asyncio, with events; a task that is cancelled ends its watch."""
    with serving(tmp_path) as server:
        with keyfold.Client(server.target) as client:
            enable(client, server, "acme")
        async with keyfold.AsyncClient(server.target) as client_:
            watch = client_.watch(states=False, events=True)
            got: list[keyfold.WatchMessage] = []

            async def read() -> None:
                async for message in watch:
                    got.append(message)  # noqa: PERF401  the list is looked at meanwhile

            task = asyncio.create_task(read())
            await until(lambda: bool(got))
            await client_.revoke("acme")
            await until(lambda: any(isinstance(m, keyfold.Event) and m.epoch == 1 for m in got))
            assert watch.resume_token
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with client_.watch(states=False, events=True) as again:
                assert isinstance(await anext(aiter(again)), keyfold.Heartbeat)


def test_closing_a_watch_ends_its_loop(tmp_path: Path) -> None:
    """Another thread ends a watch that waits, without an error."""
    with serving(tmp_path) as server, keyfold.Client(server.target) as client:
        watch = client.watch()
        seen = threading.Event()
        got: list[Any] = []

        def read() -> None:
            for message in watch:
                got.append(message)
                seen.set()

        thread = threading.Thread(target=read)
        thread.start()
        assert seen.wait(20)
        watch.close()
        thread.join(20)
        assert not thread.is_alive()


def test_a_silent_stream_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R8: a server that says nothing any more does not hold a watch for ever."""
    monkeypatch.setattr("keyfold.client.watch.PATIENCE", 0.5)
    breaks: list[keyfold.KeyfoldError | None] = []
    with serving(tmp_path) as server, keyfold.Client(server.target) as client:
        enable(client, server, "acme")
        with client.watch(on_break=breaks.append) as watch:
            messages = iter(watch)
            assert isinstance(next(messages), keyfold.ClusterState)
            beats = 0
            while beats < 3:
                # Between two streams nothing comes but the heartbeats that each begins with.
                beats += isinstance(next(messages), keyfold.Heartbeat)
        assert breaks[:2] == [None, None]


def test_the_first_stream_must_begin(tmp_path: Path) -> None:
    """A watch that cannot begin says why, instead of trying for ever."""
    with keyfold.Client("127.0.0.1:1") as client, pytest.raises(keyfold.UnavailableError):
        next(iter(client.watch()))
    with serving(tmp_path) as server, keyfold.Client(server.target) as client:
        with pytest.raises(keyfold.ResumeTokenInvalidError):
            next(iter(client.watch(states=False, events=True, resume_token="garbage")))
        server.wait(server.stop())
        with pytest.raises(keyfold.UnavailableError):
            next(iter(client.watch()))


@pytest.mark.parametrize("kind", [keyfold.Client, keyfold.AsyncClient])
async def test_a_server_that_says_nothing_holds_no_first_stream(
    kind: type[keyfold.Client | keyfold.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch that hears nothing at all says so, instead of trying for ever."""
    for module in ("keyfold.client.watch", "keyfold.aio.watch"):
        monkeypatch.setattr(f"{module}.PATIENCE", 0.3)

    async def first(target: str) -> None:
        if kind is keyfold.AsyncClient:
            async with keyfold.AsyncClient(target) as client:
                await anext(aiter(client.watch()))
        else:
            with keyfold.Client(target) as blocking:
                await asyncio.to_thread(next, iter(blocking.watch()))

    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(keyfold.UnavailableError):
            await first(target)


def watch_state() -> calls.WatchState:
    """Returns the state of a watch of all clusters."""
    return calls.WatchState(
        (),
        organization="",
        states=True,
        events=False,
        narrow=keyfold.EventFilter(),
        resume_token="",
        cursor="",
    )


class Clocks:
    """Both clocks of the client, which stand still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic, self.wall = 1_000.0, 5_000.0
        monkeypatch.setattr(calls, "clock", lambda: self.monotonic)
        monkeypatch.setattr(calls, "wall", lambda: self.wall)

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Gives the clocks that the client sees."""
    return Clocks(monkeypatch)


def beat(state: calls.WatchState, stream_age: float, store_age: float | None = 0.0) -> None:
    """Takes a heartbeat that the server made so long after it had begun the stream."""
    response = api.WatchEventsResponse(resume_token="token")
    response.heartbeat.max_store_age.FromSeconds(20)
    response.heartbeat.stream_age.FromMicroseconds(int(stream_age * 1e6))
    if store_age is not None:
        response.heartbeat.store_age.FromMicroseconds(int(store_age * 1e6))
    assert len(list(state.take(response))) == 1


def test_what_a_new_snapshot_leaves_out_is_told_as_gone(tmp_path: Path) -> None:
    """C7: a caller that holds keys of it drops them, although the stream was down meanwhile."""
    state = watch_state()

    def take(**message: Any) -> list[keyfold.WatchMessage]:
        return list(state.take(api.WatchEventsResponse(**message)))

    there = api.ClusterState(cluster="a", exists=True)
    other = api.ClusterState(cluster="b", exists=True)
    end = api.SnapshotEnd()
    state.call()
    assert len([*take(state=there), *take(state=other), *take(snapshot_end=end)]) == 3
    state.call()
    assert len(take(state=there)) == 1
    gone, ended = take(snapshot_end=end)
    assert gone == keyfold.ClusterState("b")
    assert isinstance(ended, keyfold.SnapshotEnd)


def test_a_heartbeat_is_as_old_as_it_is_however_long_it_lay_unread(clocks: Clocks) -> None:
    """R8: a program that has much else to do does not take what has queued up for new.

    Nor does how long it waited for a message say anything: each may take long in a busy program.
    """
    state = watch_state()
    assert state.age == float("inf")
    state.call()
    clocks.advance(5.5)
    beat(state, 5.0, store_age=2.0)
    assert state.age == 2.5
    clocks.advance(60.0)  # The reader gets no turn. Then it reads what came meanwhile, one by one.
    for made in (10.0, 15.0, 20.0):
        clocks.advance(0.3)
        beat(state, made)
    assert state.age == pytest.approx(46.4)
    beat(state, 66.0)
    assert state.age == pytest.approx(0.4)
    beat(state, 99.0)  # The server's clock is fast.
    assert state.age == 0.0


def test_what_was_told_is_good_for_a_while(clocks: Clocks) -> None:
    """R8: it counts from a heartbeat of a stream that had caught up."""
    state = watch_state()
    assert state.good_until(15.0) == calls.NEVER
    state.call()
    clocks.advance(2.0)
    beat(state, 1.0, store_age=None)
    assert state.good_until(15.0) == calls.NEVER
    beat(state, 1.0, store_age=10.0)  # Good for 20 s from the look at the store.
    assert state.good_until(15.0) == calls.Moment(1_011.0, 5_011.0)
    beat(state, 2.0, store_age=1.0)
    assert state.good_until(15.0) == calls.Moment(1_017.0, 5_017.0)


@pytest.mark.parametrize("by", [3_600.0, -3_600.0])
def test_a_clock_that_was_set_ends_the_stream(clocks: Clocks, by: float) -> None:
    """S3: after a step, or a pause of the machine, only a new stream tells how old anything is."""
    state = watch_state()
    state.call()
    clocks.advance(5.0)
    beat(state, 5.0)
    assert not state.stepped
    clocks.wall += by
    clocks.advance(5.0)
    beat(state, 10.0)
    assert state.stepped
    good = calls.moment().before(state.good_until(15.0))
    assert good == (by < 0)  # What the monotonic clock says is right if the other was set back.
    state.call()
    assert not state.stepped
    beat(state, 0.0)
    assert calls.moment().before(state.good_until(15.0))


def test_another_history_is_as_fresh_as_its_own_server_says(clocks: Clocks) -> None:
    """R8: a server that cannot go on from the token tells older states than the one before."""
    state = watch_state()
    state.call()
    beat(state, 0.0)
    assert state.age == 0.0
    assert state.failed(keyfold.ResumeTokenInvalidError("another log")) == 0.0
    assert state.age == float("inf")
    assert state.good_until(15.0) == calls.NEVER
    state.call()
    beat(state, 0.0, store_age=8.0)
    assert state.age == 8.0


def test_a_watch_that_is_closed_between_two_streams_ends(tmp_path: Path) -> None:
    """A watch whose stream has just ended does not go on with another one for ever."""
    with serving(tmp_path) as server, keyfold.Client(server.target) as client:
        enable(client, server, "acme")
        watch = client.watch()
        begins = watch._state.call

        def closed_meanwhile() -> Any:
            call = begins()
            watch.close()
            return call

        messages = iter(watch)
        next(messages)
        watch._state.call = closed_meanwhile  # type: ignore[method-assign]
        stale = StoreStaleError("it is stale")
        server.on_loop(lambda: server.replica.watches._end_all(lambda: stale))
        assert not [each for each in messages if isinstance(each, keyfold.ClusterState)]


def test_a_watch_that_has_heard_nothing_yet_tries_a_few_times(clocks: Clocks) -> None:
    """A server that is just being replaced fails no watch; one that is not there soon does."""
    state = watch_state()
    away = keyfold.UnavailableError("away")
    waits = [state.failed(away) for _ in range(3)]
    assert all(0.0 < wait < 1.0 for wait in waits)
    with pytest.raises(keyfold.UnavailableError):
        state.failed(away)
    for error in (keyfold.ForbiddenError("no"), keyfold.LimitError("too many")):
        with pytest.raises(type(error)):
            watch_state().failed(error)
    state.call()
    beat(state, 0.0)
    assert all(state.failed(away) < 6.0 for _ in range(20))
