"""The door before the handlers, while a server stops."""

from __future__ import annotations

import asyncio

from keyfold_server.rpc.incoming.door import LONGEST, QUIET, Door

OFTEN = 0.6 * QUIET
"""Seconds between two calls that reach the door while the transport hands over what it has."""


async def test_a_stop_waits_for_calls_that_are_still_handed_over() -> None:
    """Drain: a busy machine hands calls over slowly, and a stop waits until it has."""
    door = Door(10)
    door.close()
    waiting: list[asyncio.Task[None]] = []

    async def hand_over() -> None:
        for _ in range(8):
            await asyncio.sleep(OFTEN)
            waiting.append(asyncio.create_task(door.wait()))

    handing = asyncio.create_task(hand_over())
    await door.quiet()
    assert handing.done()
    assert len(waiting) == 8
    assert not any(each.done() for each in waiting)
    door.open()
    await asyncio.gather(*waiting)


async def test_a_stop_does_not_wait_for_ever_new_calls() -> None:
    """Drain: clients that never pause cannot put a stop off."""
    door = Door(10)
    door.close()
    waiting: list[asyncio.Task[None]] = []

    async def flood() -> None:
        while True:
            waiting.append(asyncio.create_task(door.wait()))
            await asyncio.sleep(OFTEN)

    flooding = asyncio.create_task(flood())
    time = asyncio.get_running_loop().time
    began = time()
    await door.quiet()
    assert time() - began >= LONGEST
    assert not flooding.done()
    flooding.cancel()
    door.open()
    await asyncio.gather(*waiting)
