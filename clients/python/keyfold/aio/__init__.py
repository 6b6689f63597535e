"""The client for asyncio, of one shape with the other."""

from __future__ import annotations

from keyfold.aio.data_plane import DataPlane
from keyfold.aio.lifecycle import Lifecycle

__all__ = ["AsyncClient"]


class AsyncClient(DataPlane, Lifecycle):
    """`Client` for asyncio: the same methods with the same arguments, to be awaited.

    It belongs to the event loop of its first call. What `Client` says of arguments, deadlines
    and errors holds here, too; a task that is cancelled cancels its call.

    Example:
        >>> import asyncio, keyfold
        >>> async def main():
        ...     async with keyfold.AsyncClient(target) as client:
        ...         key = await client.generate_data_key("prod", "eu")
        ...         again = await client.unwrap("prod", key.wrapped_key)
        ...         names = [one.cluster async for one in client.list_clusters()]
        ...     return again.plaintext == key.plaintext, "prod" in names
        >>> asyncio.run(main())
        (True, True)
    """
