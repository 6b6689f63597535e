"""Readers of WatchEvents on a replica of `replicas`, without a wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.domain.rights import Caller, Rights
from keyfold_server.domain.watching import WatchRequest
from keyfold_server.service.events.listing import VisibleEvent
from keyfold_server.service.watch.messages import Beat, Message, SnapshotEnd, Told
from replicas import Member, spin, until

STATES: Final = WatchRequest(states=True)
EVENTS: Final = WatchRequest(events=True)


class Reader:
    """One reader: its rights, and what it has got.

    Attributes:
        granted: Its rights under the policy in force; a test changes them.
        refused: What identifying it again raises, or None.
        got: The messages, each with its token and session.
        ended: What has ended the stream; None: it goes on.
    """

    def __init__(self, member: Member, request: WatchRequest, caller: Caller | None = None) -> None:
        self.member = member
        self.request = request
        self.caller = caller or Caller(member.rights)
        self.granted: Rights = self.caller.rights
        self.refused: KeyfoldError | None = None
        self.got: list[tuple[Message, str, str]] = []
        self.ended: BaseException | None = None
        self._reads = asyncio.Event()
        self._reads.set()
        self.writing = 0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.member.replica.watches.watch(self.request, self.caller, self, self._send)
        except KeyfoldError as error:
            self.ended = error

    def rights(self) -> Rights:
        return self.granted

    async def again(self) -> Caller:
        if self.refused is not None:
            raise self.refused
        return Caller(self.granted)

    async def _send(self, message: Message, token: str, session: str) -> None:
        self.writing += 1
        await self._reads.wait()
        self.got.append((message, token, session))
        self.writing -= 1

    def read(self, *, on: bool = True) -> None:
        """Reads on, or reads nothing from now on."""
        if on:
            self._reads.set()
        else:
            self._reads.clear()

    # What it has got

    @property
    def messages(self) -> list[Message]:
        return [message for message, _, _ in self.got]

    @property
    def token(self) -> str:
        """The token of the last message."""
        return self.got[-1][1]

    @property
    def states(self) -> list[Told]:
        return [m for m in self.messages if isinstance(m, Told)]

    @property
    def events(self) -> list[VisibleEvent]:
        return [m for m in self.messages if isinstance(m, VisibleEvent)]

    @property
    def beats(self) -> list[Beat]:
        return [m for m in self.messages if isinstance(m, Beat)]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events."""
        return [each.event.number for each in self.events]

    def names(self) -> list[tuple[str, bool]]:
        """The clusters of the states, and whether each exists."""
        return [(each.look.name, each.regions is not None) for each in self.states]

    def last(self, cluster: str) -> Told:
        """The last state of a cluster."""
        return next(t for t in reversed(self.states) if t.look.name == cluster)

    def state(self, cluster: str, region: str = "eu") -> Any:
        """What the last state of a cluster tells of a region, as the store has it."""
        look = self.last(cluster).look
        return next(each for each in look.regions if each.region.name == region)

    async def snapshot(self) -> Reader:
        """Returns once the snapshot is complete and the first heartbeat is there."""
        await until(lambda: any(isinstance(m, SnapshotEnd) for m in self.messages))
        await until(lambda: bool(self.beats))
        return self

    async def begun(self) -> Reader:
        """Returns once the first heartbeat is there."""
        await until(lambda: bool(self.beats) or self.ended is not None)
        return self

    async def end(self) -> BaseException:
        """Returns what has ended the stream, once that is so."""
        await until(lambda: self.ended is not None)
        assert self.ended is not None
        return self.ended

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def settled(member: Member) -> None:
    """Returns once a replica has looked at all that changed, and its readers have what they get."""
    sources = member.replica.watches._sources
    await until(lambda: not sources.looks._reading)
    await spin(50)


@asynccontextmanager
async def reader(
    member: Member, request: WatchRequest, caller: Caller | None = None
) -> AsyncIterator[Reader]:
    """A reader, until the block ends."""
    made = Reader(member, request, caller)
    try:
        yield made
    finally:
        await made.close()
