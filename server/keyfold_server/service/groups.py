"""Groups: calls of the store that operations make at once go out together (protocol S8).

While one group is under way, the calls that come meanwhile gather for the next one. So a call costs
a part of a transaction, and a single one waits for nothing. Each gets an answer or an error of its
own. Only operations use groups, so a caller's change never waits in one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from keyfold_server.domain.errors import KeyfoldError
from keyfold_server.service.tasks import Tasks

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")

MOST: Final = 32
"""Most calls in a group: so few that a Revoke behind it in a store with one writer waits for some
hundredths of a second."""


class Groups(Generic[_Asked, _Answer]):
    """Carries out calls of one kind in groups, one group at a time."""

    def __init__(
        self, carry_out: Callable[[Sequence[_Asked]], Awaitable[Sequence[_Answer | Exception]]]
    ) -> None:
        """Starts without calls.

        Args:
            carry_out: Carries out some calls and returns their answers in order; an error in place
                of an answer concerns that call alone, and an error that it raises all of them.
        """
        self._carry_out = carry_out
        self._waiting: deque[tuple[_Asked, asyncio.Future[_Answer]]] = deque()
        self._tasks = Tasks()
        self._running = False

    async def ask(self, asked: _Asked) -> _Answer:
        """Carries out a call in the next group. Cancelling its caller does not stop it."""
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if not self._running:
            self._running = True
            self._tasks.start(self._run())
        return await asyncio.shield(future)

    async def _run(self) -> None:
        try:
            while self._waiting:
                size = min(MOST, len(self._waiting))
                await self._group([self._waiting.popleft() for _ in range(size)])
        finally:
            self._running = False

    async def _group(self, some: Sequence[tuple[_Asked, asyncio.Future[_Answer]]]) -> None:
        answers: Sequence[_Answer | Exception]
        try:
            answers = await self._carry_out([asked for asked, _ in some])
        except Exception as error:  # noqa: BLE001  whoever asked raises it
            # Copies, because each who raises one adds a traceback.
            answers = [error.at() if isinstance(error, KeyfoldError) else error for _ in some]
        except BaseException:
            for _, future in some:
                future.cancel()
            raise
        for (_, future), answer in zip(some, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
