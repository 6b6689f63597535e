"""Bounds: how much one call, one caller and one organization may ask for.

Everything is bounded, and whoever reaches a bound hears which one and when to try again. The
bounds of a caller keep one from taking all there is; those of an organization do the same for a
customer whose clusters many callers use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.errors import OverloadedError, RateLimitedError
from keyfold_server.domain.ports import Clock

_MOST: Final = 10_000
"""Callers, and as many organizations, of whom account is kept."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Calls a second that one replica makes to customers' key services (protocol C4).

    Attributes:
        per_key: With one root key.
        per_account: To one account: an AWS account, a vault, a project.
        per_provider: To one provider.
    """

    per_key: float = 20.0
    per_account: float = 200.0
    per_provider: float = 1_000.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a server lets in.

    Attributes:
        header_bytes: Of a call's metadata.
        default_deadline: Seconds for a call that brings none.
        longest_deadline: Seconds that a call may wait, whatever it says.
        calls: Calls that wait at once, of the data plane and as many of the others.
        calls_per_caller: The same, of one caller.
        calls_per_organization: The same, for one organization's clusters.
        streams_per_caller: Streams of one caller.
        calls_per_connection: Calls of one connection; its client keeps further ones.
        connections: Connections of all callers.
        request_bytes: Of requests in memory; one more of each caller than that.
        request_bytes_per_caller: The same, of one caller.
        receive_timeout: Seconds in which a request must have arrived.
        unread_bytes: Of one caller's large replies that it has not read; one more than that.
        rate_per_caller: Calls a second of one caller.
        rate_per_organization: Calls a second that use one organization's keys.
        connection_age: Seconds after which a connection is to be made anew.
        ping_interval: Seconds that must lie between two pings of an idle connection.
        kms_rates: Calls a second that go out.
    """

    header_bytes: int = 16 * 1024
    default_deadline: float = 10.0
    longest_deadline: float = 300.0
    calls: int = 4_000
    calls_per_caller: int = 2_000
    calls_per_organization: int = 2_000
    streams_per_caller: int = 100
    calls_per_connection: int = 1_000
    connections: int = 10_000
    request_bytes: int = 512 * 1024 * 1024
    request_bytes_per_caller: int = 128 * 1024 * 1024
    receive_timeout: float = 10.0
    unread_bytes: int = 64 * 1024 * 1024
    rate_per_caller: float = 10_000.0
    rate_per_organization: float = 10_000.0
    connection_age: float = 300.0
    ping_interval: float = 10.0
    kms_rates: Rates = Rates()


class Room:
    """Places for what is under way at once."""

    __slots__ = ("_left", "_most", "_what")

    def __init__(self, most: int, what: str) -> None:
        """Takes the number of places, and what the refusal says too much of is under way."""
        self._left = self._most = most
        self._what = what

    @property
    def empty(self) -> bool:
        """Whether nothing is under way."""
        return self._left == self._most

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place.

        Raises:
            OverloadedError: There is none.
        """
        if not self._left:
            raise OverloadedError(
                f"too many {self._what} are under way; try again", retry_after=1.0
            )
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1


class Bucket:
    """A rate: so many calls a second, and as many at once after a quiet second.

    Attributes:
        rate: Calls a second, at least 1.
    """

    __slots__ = ("_at", "_level", "rate")

    def __init__(self, rate: float, now: float) -> None:
        """Begins with nothing used, at a time in monotonic seconds."""
        self.rate = rate
        self._level = rate
        self._at = now

    def wait(self, now: float) -> float:
        """Returns the seconds until one more call keeps to the rate; 0 where it does now."""
        return max(0.0, (1.0 - self._filled(now)) / self.rate)

    def take(self, now: float) -> None:
        """Counts a call; one that waits first is counted before it waits."""
        self._level = self._filled(now) - 1.0
        self._at = now

    def full(self, now: float) -> bool:
        """Says whether nothing of it is used any more."""
        return self._filled(now) >= self.rate

    def _filled(self, now: float) -> float:
        return min(self.rate, self._level + (now - self._at) * self.rate)


class Account:
    """What one caller, or one organization, has used of its bounds.

    Attributes:
        room: Places for calls that wait.
        request_bytes: Bytes of requests in memory.
        unread: Bytes of large replies that are not read yet.
    """

    __slots__ = ("_bucket", "_what", "request_bytes", "room", "unread")

    def __init__(self, calls: int, rate: float, what: str, now: float) -> None:
        """Begins with nothing used.

        Args:
            calls: Calls that may wait at once.
            rate: Calls a second, and as many at once after a quiet second.
            what: Whose calls, for the refusals.
            now: Monotonic seconds.
        """
        self.room = Room(calls, f"calls of this {what}")
        self._bucket = Bucket(rate, now)
        self._what = what
        self.request_bytes = 0
        self.unread = 0

    def check_unread(self, most: int) -> None:
        """Refuses a call with a large reply to one who leaves so many bytes of others unread.

        Raises:
            OverloadedError: There are as many.
        """
        if self.unread >= most:
            raise OverloadedError(
                f"{self.unread:,} bytes of replies to this {self._what} are not read yet; read "
                "them, and try again",
                retry_after=1.0,
            )

    def charge(self, now: float) -> None:
        """Counts a call.

        Raises:
            RateLimitedError: The calls come faster than they may.
        """
        wait = self._bucket.wait(now)
        if wait:
            raise RateLimitedError(
                f"this {self._what} makes more than {self._bucket.rate:g} calls a second; "
                "slow down",
                retry_after=wait,
            )
        self._bucket.take(now)

    def idle(self, now: float) -> bool:
        """Says whether forgetting the account would change nothing."""
        quiet = self.room.empty and not self.request_bytes and not self.unread
        return quiet and self._bucket.full(now)


class Accounts:
    """The accounts of all callers, or of all organizations; as many as are in use."""

    def __init__(self, calls: int, rate: float, what: str, clock: Clock) -> None:
        """Takes the bounds of each; see `Account`."""
        self._calls = calls
        self._rate = rate
        self._what = what
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def of(self, name: str) -> Account:
        """Returns the account of a name.

        Raises:
            OverloadedError: More of them are in use at once than account can be kept of.
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
