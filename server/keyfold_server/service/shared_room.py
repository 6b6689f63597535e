"""A room for the calls of all callers, in which no caller can take every place (protocol R9)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keyfold_server.domain.errors import OverloadedError


class Share:
    """The places and bytes that one caller holds in a shared room.

    Attributes:
        places: Places that it holds.
        request_bytes: Bytes of its requests in memory.
    """

    __slots__ = ("places", "request_bytes")

    def __init__(self) -> None:
        """Holds nothing yet."""
        self.places = 0
        self.request_bytes = 0


class SharedRoom:
    """Places that no single caller can keep from the others.

    A caller may take a place as long as it holds fewer than are free. So one caller gets at most
    half of all, and finds that many only while nobody else needs them; a caller that holds none
    always finds one, unless many callers together have taken them all.
    """

    def __init__(self, most: int, what: str) -> None:
        """Makes an empty room; see `limits.Room`."""
        self._free = most
        self._what = what
        self._shares: dict[str, Share] = {}

    @contextmanager
    def place(self, caller: str) -> Iterator[Share]:
        """Holds a place until the block ends, and yields what the caller holds.

        Raises:
            OverloadedError: The caller holds as many places as are free.
        """
        share = self._shares.get(caller)
        if (0 if share is None else share.places) >= self._free:
            raise OverloadedError(
                f"too many {self._what} of this caller are under way; try again", retry_after=1.0
            )
        share = self.occupy(caller)
        try:
            yield share
        finally:
            self.vacate(caller)

    def occupy(self, caller: str) -> Share:
        """Takes a place for work whose caller has gone, even where no place is left."""
        share = self._shares.setdefault(caller, Share())
        share.places += 1
        self._free -= 1
        return share

    def vacate(self, caller: str) -> None:
        """Gives a place back."""
        self._free += 1
        share = self._shares[caller]
        share.places -= 1
        if not share.places:
            del self._shares[caller]
