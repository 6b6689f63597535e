"""Room for requests: which requests fit, which wait, and which waiting request is next."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from keyfold_server.domain.errors import OverloadedError
from keyfold_server.rpc.incoming.request_room import RequestRoom


class Caller:
    """A caller that holds some bytes of room."""

    def __init__(self) -> None:
        """Holds nothing."""
        self.request_bytes = 0


def room_for(most: int = 100, each: int = 30, line: int = 10) -> RequestRoom:
    """Returns a room for requests of 10 bytes."""
    return RequestRoom(most, each, 10, line)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on a loop."""
    asyncio.run(test)


async def settled() -> None:
    """Runs every task that is ready to go on."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_one_caller_fills_its_own_part_alone() -> None:
    """A caller that has used up its own part waits, and another caller gets room at once."""
    room, one, other = room_for(), Caller(), Caller()
    assert [room.take(one) for _ in range(4)] == [True, True, True, False]
    assert room.take(other)
    assert (one.request_bytes, other.request_bytes, room.held) == (30, 10, 40)


def test_a_caller_with_nothing_is_always_let_in() -> None:
    """However much others hold, each caller has room for one request, so none can be kept out."""
    room, callers = room_for(most=20), [Caller() for _ in range(5)]
    assert all(room.take(caller) for caller in callers)
    assert not any(room.take(caller) for caller in callers)
    assert room.held == 50


def test_what_has_arrived_counts_with_its_size() -> None:
    """Room that an arrived request does not need goes to the next request."""

    async def test() -> None:
        room, one = room_for(each=20), Caller()
        assert room.take(one)
        assert room.take(one)
        waiting = asyncio.create_task(room.wait(one))
        await settled()
        room.give(one, 4)
        await settled()
        assert not waiting.done()
        room.give(one, 6)
        await waiting
        assert one.request_bytes == 20
        room.give(one, 20)
        assert one.request_bytes == 0
        assert room.held == 0

    run(test())


def test_callers_who_wait_take_turns() -> None:
    """Free room goes to each waiting caller once before it goes to any of them twice."""

    async def test() -> None:
        room, greedy, modest, holder = room_for(most=30, each=100), Caller(), Caller(), Caller()
        for caller in (greedy, modest, holder):
            assert room.take(caller)
        served: list[str] = []

        async def one(caller: Caller, name: str) -> None:
            await room.wait(caller)
            served.append(name)

        tasks = [asyncio.create_task(one(greedy, "greedy")) for _ in range(3)]
        await settled()
        tasks.append(asyncio.create_task(one(modest, "modest")))
        await settled()
        for caller in (holder, greedy, modest, greedy):
            room.give(caller, 10)
            await settled()
        await asyncio.gather(*tasks)
        assert served[:2] == ["greedy", "modest"]

    run(test())


def test_who_gives_up_holds_nothing() -> None:
    """A waiting request that is cancelled, even as it gets its room, leaves no room taken."""

    async def test() -> None:
        room, one = room_for(each=10), Caller()
        assert room.take(one)
        first, second = (asyncio.create_task(room.wait(one)) for _ in range(2))
        await settled()
        room.give(one, 10)
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert one.request_bytes == 0
        assert room.held == 0
        assert room.take(one)

    run(test())


def test_the_line_has_an_end() -> None:
    """Only so many requests of one caller may wait; the error of the next one has a retry time."""

    async def test() -> None:
        room, one = room_for(each=10, line=1), Caller()
        assert room.take(one)
        waiting = asyncio.create_task(room.wait(one))
        await settled()
        with pytest.raises(OverloadedError) as caught:
            await room.wait(one)
        assert caught.value.retry_after
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    run(test())
