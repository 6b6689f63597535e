"""A mapping of bounded size that drops the least recently used entry.

It is for results that are expensive to compute and can be computed again. Only the event loop's
thread may use it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class LruCache(Generic[_K, _V]):
    """A mapping that drops its least recently used entry when it is full."""

    __slots__ = ("_entries", "_most")

    def __init__(self, most: int) -> None:
        """Makes an empty cache of at most `most` entries."""
        self._entries: OrderedDict[_K, _V] = OrderedDict()
        self._most = most

    def get(self, key: _K) -> _V | None:
        """Returns the value of a key and counts it as used, or None."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: _K, value: _V) -> None:
        """Stores a value; drops the least recently used one if there are too many."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def drop(self, key: _K) -> None:
        """Removes one entry, if it exists."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Removes all entries."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
