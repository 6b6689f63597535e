"""A cache of data keys. It asks the server for each key that it does not hold."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from keyfold.aio import AsyncClient
from keyfold.arguments import checked, expect
from keyfold.caching.aio.bunch import lent_together
from keyfold.caching.aio.lending import AsyncAsker, AsyncOpeningKey, AsyncSealingKey
from keyfold.caching.aio.stream import AsyncStream
from keyfold.caching.holdings import Holdings
from keyfold.caching.keys import DEFAULT_BOUNDS, LentKey, pairs
from keyfold.caching.limits import Limits
from keyfold.caching.reader import AsyncReader
from keyfold.envelope.keys import Bounds
from keyfold.errors import KeyfoldError
from keyfold.models.specs import Buffer, Context, as_bytes


class AsyncKeyCache:
    """Plaintext data keys in a program's memory, which go when their customer takes them away.

    It watches the clusters of its keys. As soon as a cluster or a region is revoked or deleted, the
    customer's KMS refuses its key, or a generation is retired, the keys are wiped, and the next use
    asks the server, which refuses it. While the cache cannot know (the stream is away, or its
    server has lost its store), each use asks the server. It works on the client's event loop.

    Args:
        client: The client that makes and unwraps data keys, and watches.
        clusters: The names of at most 1,000 clusters whose keys to keep; none: all of the
            organization or, without one, all that the caller may see.
        organization: The organization that the clusters belong to.
        max_keys: Most keys that it holds. It drops the one used least recently.
        max_age: Most seconds for which it keeps a key. The server's `max_cache_age`, which is the
            `cache_ttl` of the key's region, bounds it, too: at 0 it keeps no key of the region.
        max_uses: Most uses of a key before the server is asked again.
        grace: Seconds for which it uses keys while the stream is away. A stream that ends counts
            as away at once, a silent one after two heartbeats (10 s).

    It begins to watch at its first use.
    Without the right to watch, or with an older server, it logs that once, and keeps keys for at
    most 5 seconds.

    Raises:
        ArgumentTypeError: An argument has a type that is not taken.
        ArgumentValueError: A bound is too small.

    Example:
        >>> async with keyfold.AsyncKeyCache(client) as cache:
        ...     async with cache.sealing_key("prod", "eu", {"table": "users"}) as key:
        ...         # Encrypt with key.plaintext, and store key.wrapped_key beside the data.
        ...         wrapped = key.wrapped_key
        ...     async with cache.opening_key("prod", wrapped, {"table": "users"}) as key:
        ...         size = len(key.plaintext)
        >>> size
        32
    """

    @checked
    def __init__(
        self,
        client: AsyncClient,
        *,
        clusters: Iterable[str] = (),
        organization: str = "",
        max_keys: int = 1_000,
        max_age: float = 300.0,
        max_uses: int = 1_000_000,
        grace: float = 10.0,
    ) -> None:
        self._holdings = Holdings(Limits(max_keys, max_age, max_uses, grace).checked())
        stream = AsyncStream(self, client, tuple(clusters), organization, self._holdings)
        self._reader = AsyncReader(stream, self._holdings)
        self._asker = AsyncAsker(client, self._holdings, self._reader)

    def opening_key(
        self,
        cluster: str,
        wrapped_key: Buffer,
        context: Context | None = None,
        *,
        timeout: float | None = None,
    ) -> AsyncOpeningKey:
        """Lends the key that `wrapped_key` holds, for a block.

        The block raises what `unwrap` raises, if the server has to be asked.

        Args:
            cluster: The name of the cluster.
            wrapped_key: The wrapped key.
            context: The context that it was wrapped with.
            timeout: Deadline of a call, in seconds.

        Raises:
            ArgumentTypeError: An argument has a type that is not taken.
        """
        expect(str, cluster=cluster)
        name = (cluster, as_bytes(wrapped_key, "wrapped_key"), pairs(context))
        return AsyncOpeningKey(self._asker, name, timeout)

    @checked
    def opening_keys(
        self,
        cluster: str,
        wrapped_keys: Iterable[tuple[Buffer, Context]],
        *,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[list[LentKey | KeyfoldError]]:
        """Lends many keys of a cluster, for a block; one call opens up to 1,000 of them.

        The block gets a key for each, in their order, or the error with which the server answered.

        Args:
            cluster: The name of the cluster.
            wrapped_keys: The wrapped keys, each with the context that it was wrapped with.
            timeout: Deadline of each call, in seconds.

        Raises:
            ArgumentTypeError: An argument has a type that is not taken.
        """
        names = [
            (cluster, bytes(wrapped_key), pairs(context)) for wrapped_key, context in wrapped_keys
        ]
        return lent_together(self._asker, cluster, names, timeout)

    def sealing_key(
        self,
        cluster: str,
        region: str,
        context: Context | None = None,
        *,
        size: int = 0,
        bounds: Bounds = DEFAULT_BOUNDS,
        timeout: float | None = None,
    ) -> AsyncSealingKey:
        """Lends a key of 32 bytes to encrypt one message with, for a block; makes one if need be.

        The block raises what `generate_data_key` raises, if the server has to be asked.

        Args:
            cluster: The name of the cluster.
            region: The region that wraps the key.
            context: The context to wrap it with.
            size: The bytes of the message, which count against the bounds.
            bounds: The most messages and bytes that one key encrypts, and the longest time for
                which it does. The default is 1,000,000 messages, 64 GiB and 300 seconds.
            timeout: Deadline of a call, in seconds.

        Raises:
            ArgumentTypeError: An argument has a type that is not taken.
        """
        expect(str, cluster=cluster, region=region)
        expect(int, size=size)
        expect(Bounds, bounds=bounds)
        return AsyncSealingKey(
            self._asker, (cluster, region, pairs(context)), size, bounds, timeout
        )

    def __len__(self) -> int:
        return len(self._holdings)

    @property
    def serving(self) -> bool:
        """Whether it serves keys from memory now; if not, each use asks the server."""
        return self._holdings.serving

    async def close(self) -> None:
        """Wipes the keys, and ends the watch."""
        self._holdings.close()
        await self._reader.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
