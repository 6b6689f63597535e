"""Keys that are lent to a block: from memory, or else from the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from keyfold.aio import AsyncClient
from keyfold.caching import keys
from keyfold.caching.holdings import Holdings, Ticket
from keyfold.caching.keys import BorrowedKey, HeldKey, OpeningName, SealingName
from keyfold.caching.reader import AsyncReader
from keyfold.envelope.keys import Bounds
from keyfold.errors import KeyfoldError
from keyfold.models.specs import UnwrapItem


class AsyncAsker:
    """Asks the server for keys that are not in memory.

    Attributes:
        holdings: The keys in memory.
    """

    def __init__(self, client: AsyncClient, holdings: Holdings, reader: AsyncReader) -> None:
        """Takes the client, the keys, and the reader of the watch, which the first call starts."""
        self._client = client
        self.holdings = holdings
        self._reader = reader

    async def opened(self, name: OpeningName, timeout: float | None) -> HeldKey:
        """Has the server open a key, and keeps the key if it may."""
        cluster, wrapped_key, context = name
        with self._asking(cluster) as ticket:
            answer = await self._client.unwrap(
                cluster, wrapped_key, context=dict(context), timeout=timeout
            )
        held = keys.opened(name, answer)
        return self.holdings.keep(held, ticket, answer.max_cache_age.total_seconds())

    async def opened_together(
        self, cluster: str, names: Sequence[OpeningName], timeout: float | None
    ) -> list[HeldKey | KeyfoldError]:
        """Has the server open keys in a batch, and keeps those that may be kept."""
        items = [UnwrapItem(wrapped_key, dict(context)) for _, wrapped_key, context in names]
        with self._asking(cluster) as ticket:
            answers = await self._client.batch_unwrap(cluster, items, timeout=timeout)
        opened: list[HeldKey | KeyfoldError] = []
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, KeyfoldError):
                self.holdings.failed(cluster, answer)
                opened.append(answer)
            else:
                age = answer.max_cache_age.total_seconds()
                opened.append(self.holdings.keep(keys.opened(name, answer), ticket, age))
        return opened

    async def made(self, name: SealingName, size: int, timeout: float | None) -> HeldKey:
        """Has the server make a key, and keeps the key if it may."""
        cluster, region, context = name
        with self._asking(cluster) as ticket:
            answer = await self._client.generate_data_key(
                cluster, region, context=dict(context), timeout=timeout
            )
        held = keys.made(name, answer, size)
        return self.holdings.keep(held, ticket, answer.max_cache_age.total_seconds())

    @contextmanager
    def _asking(self, cluster: str) -> Iterator[Ticket]:
        """Surrounds a call: notes that it begins, and tells the holdings if it fails."""
        ticket = self.holdings.ticket(cluster)
        self._reader.start()
        try:
            yield ticket
        except KeyfoldError as error:
            self.holdings.failed(cluster, error)
            raise


class AsyncOpeningKey(BorrowedKey):
    """A key to open with; borrow it with a block."""

    __slots__ = ("_asker", "_name", "_timeout")

    def __init__(self, asker: AsyncAsker, name: OpeningName, timeout: float | None) -> None:
        self._asker = asker
        self._name = name
        self._timeout = timeout
        self._held = self._view = None

    async def __aenter__(self) -> Self:
        asker = self._asker
        held = asker.holdings.to_open(self._name)
        self._held = held or await asker.opened(self._name, self._timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back(self._asker.holdings)


class AsyncSealingKey(BorrowedKey):
    """A key to seal one message with; borrow it with a block."""

    __slots__ = ("_asker", "_bounds", "_name", "_size", "_timeout")

    def __init__(
        self,
        asker: AsyncAsker,
        name: SealingName,
        size: int,
        bounds: Bounds,
        timeout: float | None,
    ) -> None:
        self._asker = asker
        self._name = name
        self._size = size
        self._bounds = bounds
        self._timeout = timeout
        self._held = self._view = None

    async def __aenter__(self) -> Self:
        asker = self._asker
        held = asker.holdings.to_seal(self._name, self._size, self._bounds)
        self._held = held or await asker.made(self._name, self._size, self._timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back(self._asker.holdings)
