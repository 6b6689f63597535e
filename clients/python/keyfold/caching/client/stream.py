# Generated from caching/aio/stream.py by `make client`; never edited.

"""The stream of news that a cache reads, for as long as somebody has the cache."""

from __future__ import annotations

import weakref

from keyfold.caching.holdings import Holdings
from keyfold.client import Client, Watch
from keyfold.errors import ClosedError, KeyfoldError


class Stream:
    """Reads watches for a cache. It does not keep the cache alive."""

    def __init__(
        self,
        cache: object,
        client: Client,
        clusters: tuple[str, ...],
        organization: str,
        holdings: Holdings,
    ) -> None:
        """Takes the cache, what it watches, and what hears of it."""
        self._cache = weakref.ref(cache)
        self._client = client
        self._clusters = clusters
        self._organization = organization
        self._holdings = holdings
        self._watch: Watch | None = None
        self._closed = False

    def wanted(self) -> bool:
        """Returns whether there is anything to read for.

        No longer once it is closed, or the client is, or the cache's last reference is gone.
        """
        return not self._closed and self._cache() is not None

    def close(self) -> None:
        """Ends it."""
        self._closed = True
        if self._watch is not None:
            self._watch.close()

    def read(self) -> None:
        """Reads one watch for as long as it goes on.

        It raises what the watch raises, unless the client is closed.
        """
        try:
            self._read()
        except ClosedError:
            self._closed = True

    def _read(self) -> None:
        holdings = self._holdings
        with self._client.watch(
            self._clusters, organization=self._organization, on_break=self._broke
        ) as watch:
            self._watch = watch
            begun = False
            if self._closed:
                return  # `close` may have looked before there was this watch.
            for message in watch:
                if not begun:
                    holdings.begin(watched=True)
                    begun = True
                holdings.tell(message, watch.good_until(holdings.silence))
                if not self.wanted():
                    return

    def _broke(self, _: KeyfoldError | None) -> None:
        self._holdings.away()
        if not self.wanted():
            self.close()
