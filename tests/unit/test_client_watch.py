"""The client's watch: it goes on by itself, and says how old what it told is."""

from __future__ import annotations

import asyncio
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


def test_what_a_new_snapshot_leaves_out_is_told_as_gone(tmp_path: Path) -> None:
    """C7: a caller that holds keys of it drops them, although the stream was down meanwhile."""
    state = calls.WatchState(
        (),
        organization="",
        states=True,
        events=False,
        narrow=keyfold.EventFilter(),
        resume_token="",
        cursor="",
    )

    def take(**message: Any) -> list[keyfold.WatchMessage]:
        return list(state.take(api.WatchEventsResponse(**message), calls.Moment(0.0, 0.0)))

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


def test_the_age_grows_and_old_heartbeats_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """R8: a cache counts from the server's look; what was there before nobody waited is no news."""
    now = [1_000.0]
    monkeypatch.setattr(calls, "clock", lambda: now[0])
    monkeypatch.setattr(calls, "wall", lambda: now[0])
    state = calls.WatchState(
        ("a",),
        organization="",
        states=True,
        events=False,
        narrow=keyfold.EventFilter(),
        resume_token="",
        cursor="",
    )
    assert state.age == float("inf")

    def beat(asked_at: float, age: float) -> None:
        response = api.WatchEventsResponse()
        response.heartbeat.store_age.FromMicroseconds(int(age * 1e6))
        list(state.take(response, calls.Moment(asked_at, asked_at)))

    now[0] = 1_005.0
    beat(1_000.0, 2.0)
    assert state.age == 7.0  # As old as if it had come when the wait began.
    now[0] = 1_100.0
    beat(1_100.0, 0.0)
    assert state.age == 102.0  # It was there before anybody waited: who knows since when.
    now[0] = 1_105.0
    beat(1_100.0, 0.0)
    assert state.age == 5.0


def test_what_was_told_is_good_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """R8, S3: it counts from a heartbeat of a stream that had caught up, on both clocks."""
    now = [1_000.0, 5_000.0]
    monkeypatch.setattr(calls, "clock", lambda: now[0])
    monkeypatch.setattr(calls, "wall", lambda: now[1])
    state = calls.WatchState(
        (),
        organization="",
        states=True,
        events=False,
        narrow=keyfold.EventFilter(),
        resume_token="",
        cursor="",
    )
    assert state.good_until(15.0) == calls.NEVER

    def beat(asked_at: calls.Moment, age: float | None) -> None:
        response = api.WatchEventsResponse()
        response.heartbeat.max_store_age.FromSeconds(20)
        if age is not None:
            response.heartbeat.store_age.FromMicroseconds(int(age * 1e6))
        list(state.take(response, asked_at))

    state.call()
    now[:] = [1_002.0, 5_002.0]
    beat(calls.moment(), None)  # It has not caught up.
    assert state.good_until(15.0) == calls.NEVER
    beat(calls.moment(), 10.0)  # It was there at once: it came at some time after the call.
    assert state.good_until(15.0) == calls.Moment(1_010.0, 5_010.0)
    waits = calls.moment()
    now[:] = [1_007.0, 8_607.0]  # The machine was paused, with its monotonic clock.
    beat(waits, 1.0)
    assert state.good_until(15.0) == calls.Moment(1_017.0, 5_017.0)
    assert state.age == 3_606.0
