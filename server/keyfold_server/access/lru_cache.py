"""A mapping of bounded size that forgets what was not used for longest.

For what is dear to work out and may be worked out again. It knows nothing of what it holds. One
thread uses it: the event loop's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class LruCache(Generic[_K, _V]):
    """At most so many entries; the least recently used goes first."""

    __slots__ = ("_entries", "_most")

    def __init__(self, most: int) -> None:
        """Holds nothing yet, and never more than `most`."""
        self._entries: OrderedDict[_K, _V] = OrderedDict()
        self._most = most

    def get(self, key: _K) -> _V | None:
        """Returns what is kept, as just used, or None."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: _K, value: _V) -> None:
        """Keeps a value, and lets the least recently used one go where there are too many."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def drop(self, key: _K) -> None:
        """Forgets one entry, if it is there."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forgets all."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
