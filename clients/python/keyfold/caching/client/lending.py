# Generated from caching/aio/lending.py by `make client`; never edited.

"""Keys that are lent to a block: from memory, or else from the server."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from keyfold.caching import keys
from keyfold.caching.flights import Flight, Landing, Opening, Request, Sealing
from keyfold.caching.holdings import Holdings
from keyfold.caching.keys import BorrowedKey, HeldKey, OpeningName, SealingName
from keyfold.caching.reader import Reader, turn
from keyfold.calls.call import Plane
from keyfold.calls.watch import clock, moment
from keyfold.client import Client
from keyfold.envelope.keys import Bounds
from keyfold.errors import DeadlineError, KeyfoldError
from keyfold.models.results import Unwrapped
from keyfold.models.specs import UnwrapItem

_TURN: Final = 128
"""Uses after which one gives way. An event loop reads the watch only then, and a long row of uses
from memory never waits for anything."""


class Asker:
    """Asks the server for keys that are not in memory.

    Attributes:
        holdings: The keys in memory.
        uses: How many uses there were.
    """

    def __init__(self, client: Client, holdings: Holdings, reader: Reader) -> None:
        """Takes the client, the keys, and the reader of the watch, which the first call starts."""
        self._client = client
        self.holdings = holdings
        self.uses = 0
        self._reader = reader

    def ask(self, request: Request, timeout: float | None) -> HeldKey:
        """Has the server open or make a key, or waits for another caller's call for it.

        Raises:
            DeadlineError: No call ended well within the deadline.
        """
        ends = clock() + self._client.timeouts.of(Plane.DATA, timeout)
        while True:
            landing, left = Landing(), max(0.0, ends - clock())
            place = self.holdings.board(request, left, landing.land)
            if isinstance(place, HeldKey):
                return place
            if place.leads:
                held = self._made(place.flight, request, left)
            else:
                held = self._waited(place.flight, request, landing, left)
            if held is not None:
                return held
            if clock() >= ends:
                raise DeadlineError(
                    "the deadline passed before a call for the key had ended; allow more time",
                    code="DEADLINE_EXCEEDED",
                )

    def ask_together(
        self, cluster: str, names: Sequence[OpeningName], timeout: float | None
    ) -> list[HeldKey | KeyfoldError]:
        """Has the server open keys in a batch, which nobody else shares."""
        ends = clock() + self._client.timeouts.of(Plane.DATA, timeout)
        items = [UnwrapItem(wrapped_key, dict(pairs)) for _, wrapped_key, pairs in names]
        flights = self.holdings.depart(names, ends - clock())
        opened: list[HeldKey | KeyfoldError] = []
        try:
            self._reader.start()
            answers = self._client.batch_unwrap(cluster, items, timeout=timeout)
            for flight, name, answer in zip(flights, names, answers, strict=True):
                opened.append(self._one(flight, name, answer, ends))
        except BaseException:
            for each in opened:
                if isinstance(each, HeldKey):
                    self.holdings.give_back(each)
            raise
        finally:
            for flight in flights:
                self.holdings.leave(flight)
        return opened

    def _one(
        self, flight: Flight, name: OpeningName, answer: Unwrapped | KeyfoldError, ends: float
    ) -> HeldKey | KeyfoldError:
        """Returns what one answer of a batch has brought."""
        if isinstance(answer, KeyfoldError):
            self.holdings.failed(flight, answer)
            return answer
        held = keys.opened(name, answer)
        if self.holdings.landed(flight, held, answer.max_cache_age.total_seconds()):
            return held
        try:
            return self.ask(Opening(name, moment()), max(0.0, ends - clock()))
        except KeyfoldError as error:
            return error

    def _made(self, flight: Flight, request: Request, left: float) -> HeldKey | None:
        """Makes the call; None: its answer is out of date."""
        try:
            self._reader.start()
            held, max_cache_age = self._call(request, left)
            return held if self.holdings.landed(flight, held, max_cache_age) else None
        except KeyfoldError as error:
            self.holdings.failed(flight, error)
            raise
        finally:
            self.holdings.leave(flight)

    def _waited(
        self, flight: Flight, request: Request, landing: Landing, left: float
    ) -> HeldKey | None:
        """Waits for the call; None: it brought nothing for this caller."""
        try:
            landing.wait(min(left, flight.left))
        except BaseException:
            self.holdings.give_up(flight)
            raise
        return self.holdings.alight(flight, request)

    def _call(self, request: Request, timeout: float) -> tuple[HeldKey, float]:
        """Returns the server's answer, and its `max_cache_age`."""
        if isinstance(request, Opening):
            cluster, wrapped_key, pairs = request.name
            opened = self._client.unwrap(cluster, wrapped_key, context=dict(pairs), timeout=timeout)
            return keys.opened(request.name, opened), opened.max_cache_age.total_seconds()
        cluster, region, pairs = request.name
        made = self._client.generate_data_key(cluster, region, context=dict(pairs), timeout=timeout)
        return keys.made(request.name, made), made.max_cache_age.total_seconds()


class OpeningKey(BorrowedKey):
    """A key to open with; borrow it with a block."""

    __slots__ = ("_asker", "_name", "_timeout")

    def __init__(self, asker: Asker, name: OpeningName, timeout: float | None) -> None:
        self._asker = asker
        self._name = name
        self._timeout = timeout
        self._held = self._view = None

    def __enter__(self) -> Self:
        asker = self._asker
        asker.uses += 1
        if not asker.uses % _TURN:
            turn()
        held = asker.holdings.to_open(self._name)
        if held is None:
            held = asker.ask(Opening(self._name, moment()), self._timeout)
        self._held = held
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back(self._asker.holdings)


class SealingKey(BorrowedKey):
    """A key to seal one message with; borrow it with a block."""

    __slots__ = ("_asker", "_bounds", "_name", "_size", "_timeout")

    def __init__(
        self,
        asker: Asker,
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

    def __enter__(self) -> Self:
        asker = self._asker
        asker.uses += 1
        if not asker.uses % _TURN:
            turn()
        held = asker.holdings.to_seal(self._name, self._size, self._bounds)
        if held is None:
            request = Sealing(self._name, moment(), self._size, self._bounds)
            held = asker.ask(request, self._timeout)
        self._held = held
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back(self._asker.holdings)
