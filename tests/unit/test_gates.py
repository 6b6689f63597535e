"""Gates: calls of operations leave half of every slot and rate to callers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

import pytest

from fakes import FakeClock
from keyfold_server.domain.bounds import Rates
from keyfold_server.service.kms.gates import (
    AT_ONCE_PER_ACCOUNT,
    AT_ONCE_PER_KEY,
    SHARE,
    Gates,
    Permit,
)

UNHURRIED: Final = Rates(per_key=1e6, per_account=1e6, per_provider=1e6)
KEY: Final = ("FAKE", "one", "")
ACCOUNT: Final = ("FAKE", "account")


async def taken(gates: Gates, key: tuple[str, ...] = KEY) -> Permit | None:
    """Returns the permit of a call that yields, or None if it has to wait."""
    try:
        async with asyncio.timeout(0.12):
            return await gates.leisure(key, ACCOUNT, "FAKE")
    except TimeoutError:
        return None


@pytest.mark.parametrize("gate", ["per_key", "per_account", "per_provider"])
async def test_a_caller_does_not_wait_for_a_rate_that_operations_use(gate: str) -> None:
    """F8, W2: operations stop at half of each rate; a caller's call then goes without a pause."""
    gates = Gates(replace(UNHURRIED, **{gate: 10.0}), FakeClock())
    begun = 0
    while (permit := await taken(gates)) is not None:
        permit.release()
        begun += 1
        assert begun <= 10
    assert begun == 10 * SHARE
    for _ in range(int(10 * (1 - SHARE))):
        caller = gates.enter(KEY, ACCOUNT, "FAKE", 0.0)
        await caller.acquire()
        caller.release()


async def test_a_caller_does_not_wait_for_a_slot_that_operations_use() -> None:
    """W2: however many calls of operations wait, half of the slots of a key are a caller's."""
    gates = Gates(UNHURRIED, FakeClock())
    waiting = [asyncio.create_task(gates.leisure(KEY, ACCOUNT, "FAKE")) for _ in range(20)]
    await asyncio.sleep(0)
    assert sum(task.done() for task in waiting) == AT_ONCE_PER_KEY * SHARE
    for _ in range(int(AT_ONCE_PER_KEY * (1 - SHARE))):
        async with asyncio.timeout(1):
            await gates.enter(KEY, ACCOUNT, "FAKE", 0.0).acquire()
    for task in waiting:
        task.cancel()


async def test_a_slot_goes_to_the_first_that_may_have_it() -> None:
    """A call that leaves lets the first go that may, and one given up gives its slot on."""
    gates = Gates(UNHURRIED, FakeClock())
    keys = [("FAKE", str(number), "") for number in range(AT_ONCE_PER_ACCOUNT)]
    held = [await gates.leisure(key, ACCOUNT, "FAKE") for key in keys[:4]]
    first, second = (asyncio.create_task(gates.leisure(key, ACCOUNT, "FAKE")) for key in keys[4:6])
    await asyncio.sleep(0)
    assert not first.done()
    held[0].release()
    first.cancel()  # It has its slot, and does not know it yet.
    with pytest.raises(asyncio.CancelledError):
        await first
    async with asyncio.timeout(5):
        await second
    assert await taken(gates, keys[6]) is None
