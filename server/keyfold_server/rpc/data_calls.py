"""Calls of the data plane: unary ones at once, batches in parts, and all with the keys they lack.

A call that finds its keys in memory takes no await, except between the parts of a batch, where the
event loop has other turns (protocol W5). Each part is a call of the core of its own, with all its
checks, so a revocation that comes in between stops the parts that follow (protocol R3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from keyfold_server.domain.envelope import OVERHEAD
from keyfold_server.domain.errors import BusyError, InvalidBatchError
from keyfold_server.domain.rights import Caller
from keyfold_server.rpc.call import Call
from keyfold_server.rpc.call_log import Facts
from keyfold_server.rpc.handlers.data import ITEM_OVERHEAD, DataMethod, answer_size
from keyfold_server.rpc.incoming.deadline import deadline_of
from keyfold_server.rpc.messages.batches import Parts, parts_of
from keyfold_server.rpc.messages.sizes import MAX_BATCH, check_size
from keyfold_server.service.data.call import Call as CoreCall
from keyfold_server.service.data.call import Need, NeedsLoad
from keyfold_server.service.limits import Account, Room
from keyfold_server.service.replica import Replica

_ROUNDS: Final = 8
"""Times that a data-plane call loads keys that keep changing, before it fails with BUSY."""

Method = Callable[[bytes, Call, Caller, Account, Facts], bytes | Awaitable[bytes]]
"""Answers a call, at once if it can. The wrapper turns what it raises into a status."""


class DataCalls:
    """Answers the data-plane calls of one replica."""

    def __init__(self, replica: Replica) -> None:
        """Takes the service."""
        self._replica = replica
        # The other methods wait in the replica's room, so a flood of one kind cannot delay the
        # other. Revoke waits in neither (protocol R9).
        self._cold_room = Room(replica.bounds.calls, "calls")

    def unary(self, core: DataMethod) -> Method:
        """Returns the method that makes one call of a core."""

        def answer(
            data: bytes, call: Call, caller: Caller, account: Account, facts: Facts
        ) -> bytes | Awaitable[bytes]:
            check_size(data)
            asked = CoreCall(caller.rights)
            try:
                return core(data, asked, facts)
            except NeedsLoad as lacking:
                return self._cold(core, data, facts, asked, lacking.needs, account, call)

        return answer

    def batch(
        self, name: str, core: DataMethod
    ) -> Callable[[bytes, Call, Caller, Account, Facts], Awaitable[bytes]]:
        """Returns the method that makes one call of a core for each part of a batch."""

        async def answer(
            data: bytes, call: Call, caller: Caller, account: Account, facts: Facts
        ) -> bytes:
            parts = parts_of(name, data)
            facts.items = parts.items
            # The call itself was charged when it came in.
            account.charge_more(self._replica.clock.monotonic(), parts.items - 1)
            if name == "BatchWrap":
                await _check_answer(len(data), parts, facts)
            asked = CoreCall(caller.rights)
            replies: list[bytes] = []
            for part in parts.requests:
                if replies:
                    await _others()
                try:
                    reply = core(part, asked, facts)
                except NeedsLoad as lacking:
                    needs = lacking.needs
                    reply = await self._cold(core, part, facts, asked, needs, account, call)
                replies.append(reply)
            reply = replies[0] if len(replies) == 1 else b"".join(replies)
            _unread(account, len(reply), call)
            return reply

        return answer

    async def _cold(
        self,
        core: DataMethod,
        data: bytes,
        facts: Facts,
        asked: CoreCall,
        needs: Sequence[Need],
        account: Account,
        call: Call,
    ) -> bytes:
        """Loads the keys that the core lacks and runs it again, a bounded number of times."""
        replica = self._replica
        with self._cold_room.place(), account.room.place():
            asked.arrived = asked.arrived or replica.clock.monotonic()
            deadline = deadline_of(call, replica.bounds, replica.clock)
            for _ in range(_ROUNDS):
                with replica.room_of(needs[0].cluster, asked.rights):
                    await replica.loads.satisfy(needs, asked, deadline)
                try:
                    return core(data, asked, facts)
                except NeedsLoad as lacking:
                    needs = lacking.needs
        raise BusyError("the cluster's keys keep changing under this call; try again")


async def _others() -> None:
    """Lets the event loop take its other turns."""
    await asyncio.sleep(0)


async def _check_answer(size: int, parts: Parts, facts: Facts) -> None:
    """Refuses a BatchWrap whose answer would be too large, before any work.

    Raises:
        InvalidBatchError: The answer would be too large.
    """
    if size + parts.items * (OVERHEAD + ITEM_OVERHEAD) <= MAX_BATCH:
        return  # An answer is longer than its request by no more than that.
    total = 0
    for part in parts.requests:
        await _others()
        total += answer_size(part, facts)
    if total > MAX_BATCH:
        raise InvalidBatchError(
            f"the answer would have about {total:,} bytes, and at most {MAX_BATCH:,} are allowed; "
            "split the batch",
            field="items",
        )


def _unread(account: Account, size: int, call: Call) -> None:
    """Counts a reply's bytes until they have been sent: a caller may read slowly, or never."""
    account.unread += size

    def done() -> None:
        account.unread -= size

    call.when_done(done)
