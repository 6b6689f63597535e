"""Keeps callers and organizations within their bounds.

Everything is bounded, and an error says which bound a call has reached and when to try again. A
caller's bounds keep one caller from taking everything there is. An organization's bounds do the
same for a customer whose clusters many callers use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from keyfold_server.domain.errors import OverloadedError, RateLimitedError
from keyfold_server.domain.ports import Clock
from keyfold_server.service.shared_room import SharedRoom

_MOST: Final = 10_000
"""Accounts of callers that are kept at once, and accounts of organizations."""


class Room:
    """Places for calls that are under way at once."""

    __slots__ = ("_left", "_most", "_what")

    def __init__(self, most: int, what: str) -> None:
        """Makes an empty room.

        Args:
            most: The number of places.
            what: The things that take places, for the error: "too many … are under way".
        """
        self._left = self._most = most
        self._what = what

    @property
    def empty(self) -> bool:
        """Whether every place is free."""
        return self._left == self._most

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place until the block ends.

        Raises:
            OverloadedError: Every place is taken.
        """
        if self._left <= 0:
            raise OverloadedError(
                f"too many {self._what} are under way; try again", retry_after=1.0
            )
        self.occupy()
        try:
            yield
        finally:
            self.vacate()

    def occupy(self) -> None:
        """Takes a place for work whose caller has gone, even where every place is taken."""
        self._left -= 1

    def vacate(self) -> None:
        """Gives a place back."""
        self._left += 1


class Bucket:
    """Limits a rate of calls; after a quiet second it allows a second's worth of calls at once.

    Attributes:
        rate: Calls per second, at least 1.
    """

    __slots__ = ("_at", "_level", "rate")

    def __init__(self, rate: float, now: float) -> None:
        """Makes an unused bucket; `now` is monotonic seconds, here and below."""
        self.rate = rate
        self._level = rate
        self._at = now

    def wait(self, now: float) -> float:
        """Returns the seconds until the rate allows one more call; 0 if it does now."""
        return max(0.0, (1.0 - self.level(now)) / self.rate)

    def try_take(self, now: float, calls: int = 1) -> bool:
        """Counts calls if the rate allows one more now, and says whether it does."""
        level = min(self.rate, self._level + (now - self._at) * self.rate)
        if level < 1.0:
            return False
        self._level = level - calls
        self._at = now
        return True

    def take(self, now: float, calls: int = 1) -> None:
        """Counts calls. Count a call that has to wait before it waits.

        More calls than the rate allows become a debt, which later calls wait for.
        """
        self._level = self.level(now) - calls
        self._at = now

    def full(self, now: float) -> bool:
        """Says whether the bucket is as good as unused."""
        return self.level(now) >= self.rate

    def level(self, now: float) -> float:
        """Returns how many calls the rate allows at once now; negative while there is a debt."""
        return min(self.rate, self._level + (now - self._at) * self.rate)


class Account:
    """What one caller, or one organization, has used of its bounds.

    Attributes:
        room: Places for calls that wait.
        request_bytes: Bytes of requests in memory.
        unread: Bytes of batches' replies that the caller has not read yet.
    """

    __slots__ = ("_bucket", "_what", "request_bytes", "room", "unread")

    def __init__(self, calls: int, rate: float, what: str, now: float) -> None:
        """Makes an account that has used nothing.

        Args:
            calls: Calls that may wait at once.
            rate: Calls per second, and as many at once after a quiet second.
            what: The owner of the account, for the errors: `caller` or `organization`.
            now: Monotonic seconds.
        """
        self.room = Room(calls, f"calls of this {what}")
        self._bucket = Bucket(rate, now)
        self._what = what
        self.request_bytes = 0
        self.unread = 0

    def check_unread(self, most: int) -> None:
        """Refuses a batch of a caller that leaves `most` bytes of earlier replies unread.

        Raises:
            OverloadedError: The caller does.
        """
        if self.unread >= most:
            raise OverloadedError(
                f"this {self._what} has not read {self.unread:,} bytes of earlier replies; read "
                "them, and try again",
                retry_after=1.0,
            )

    def charge(self, now: float, calls: int = 1) -> None:
        """Counts calls, each item of a batch as one.

        A batch passes where one call would, and the calls that follow wait for the rest of it.

        Raises:
            RateLimitedError: The calls come faster than the rate allows.
        """
        if not self._bucket.try_take(now, calls):
            raise RateLimitedError(
                f"this {self._what} makes more than {self._bucket.rate:g} calls a second, and each "
                "item of a batch counts as one; slow down",
                retry_after=self._bucket.wait(now),
            )

    def charge_more(self, now: float, calls: int) -> None:
        """Counts the further calls of one that was charged already, such as a batch's items."""
        self._bucket.take(now, calls)

    def idle(self, now: float) -> bool:
        """Says whether forgetting the account would change nothing."""
        quiet = self.room.empty and not self.request_bytes and not self.unread
        return quiet and self._bucket.full(now)


class Accounts:
    """The accounts of all callers, or of all organizations, that are in use."""

    def __init__(self, calls: int, rate: float, what: str, clock: Clock) -> None:
        """Takes the bounds of each account; see `Account`."""
        self._calls = calls
        self._rate = rate
        self._what = what
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def of(self, name: str) -> Account:
        """Returns the account of a caller or an organization; makes it on first use.

        Raises:
            OverloadedError: Too many accounts are in use at once.
        """
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = self._new()
        return account

    def _new(self) -> Account:
        now = self._clock.monotonic()
        if len(self._accounts) >= _MOST:
            self._accounts = {k: a for k, a in self._accounts.items() if not a.idle(now)}
        if len(self._accounts) >= _MOST:
            raise OverloadedError(
                f"too many {self._what}s are active at once; try again", retry_after=1.0
            )
        return Account(self._calls, self._rate, self._what, now)


@dataclass(frozen=True, slots=True)
class Limits:
    """The places and rates that changes of clusters use up.

    Attributes:
        callers: The places and rates of each caller.
        organizations: The places and rates of each organization.
        room: Places for the calls of all methods that are not of the data plane.
        urgent: Places for the calls of Revoke and RetireGeneration, which take none of the others
            (protocol R9).
    """

    callers: Accounts
    organizations: Accounts
    room: Room
    urgent: SharedRoom

    def keep_places(self, caller: str, task: asyncio.Task[Any], *, urgent: bool) -> None:
        """Keeps the places of a call that its caller has given up until its task has ended (R9).

        The call gives its own places back when it ends, which is in this moment.
        """
        if urgent:
            self.urgent.occupy(caller)
            task.add_done_callback(lambda _: self.urgent.vacate(caller))
            return
        rooms = (self.room, self.callers.of(caller).room)
        for room in rooms:
            room.occupy()

        def give_back(_: object) -> None:
            for room in rooms:
                room.vacate()

        task.add_done_callback(give_back)
