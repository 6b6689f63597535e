"""Plaintext data keys, kept for a while and no longer than their customer allows.

client/     the cache for threads; `make client` generates it from aio/
aio/        the cache for asyncio
reader      follows the watch in a thread or a task, and decides what a watch's end means
holdings    what the callers of a cache share: its memory and its flights
flights     the calls that are under way, and who may share one
memory      the keys in memory, and when one may be used
shelf       the keys, bounded in number
news        what the watch has told of clusters, and until when that may be relied on
keys        one key
limits      the bounds of a cache
"""

from keyfold.caching.aio.cache import AsyncKeyCache
from keyfold.caching.client.cache import KeyCache
from keyfold.caching.keys import BorrowedKey

__all__ = ["AsyncKeyCache", "BorrowedKey", "KeyCache"]
