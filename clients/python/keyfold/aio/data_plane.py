"""Wrapping and unwrapping keys, one by one and in batches, for asyncio."""


# ruff: noqa: ASYNC109  the timeout is the call's deadline, which the server is told

from __future__ import annotations

from collections.abc import Iterable

from keyfold import calls
from keyfold.aio.connection import Connection
from keyfold.calls import batches
from keyfold.errors import KeyfoldError
from keyfold.models.results import DataKey, Rewrapped, Unwrapped, Wrapped
from keyfold.models.specs import Buffer, Context, Destination, RewrapItem, UnwrapItem, WrapItem


class DataPlane(Connection):
    """The calls that programs make all day."""

    async def wrap(
        self,
        cluster: str,
        region: str,
        plaintext: Buffer,
        *,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> Wrapped:
        """As `Client.wrap`."""
        return await self._ask(calls.wrap(cluster, region, plaintext, context), timeout)

    async def unwrap(
        self,
        cluster: str,
        wrapped_key: Buffer,
        *,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> Unwrapped:
        """As `Client.unwrap`."""
        return await self._ask(calls.unwrap(cluster, wrapped_key, context), timeout)

    async def generate_data_key(
        self,
        cluster: str,
        region: str,
        *,
        size: int = 32,
        context: Context | None = None,
        wrapped_only: bool = False,
        timeout: float | None = None,
    ) -> DataKey:
        """As `Client.generate_data_key`."""
        call = calls.generate_data_key(cluster, region, size, context, wrapped_only=wrapped_only)
        return await self._ask(call, timeout)

    async def rewrap(
        self,
        cluster: str,
        wrapped_key: Buffer,
        *,
        context: Context | None = None,
        destination: Destination | None = None,
        timeout: float | None = None,
    ) -> Rewrapped:
        """As `Client.rewrap`."""
        return await self._ask(calls.rewrap(cluster, wrapped_key, context, destination), timeout)

    async def batch_wrap(
        self,
        cluster: str,
        items: Iterable[WrapItem | Buffer],
        *,
        region: str = "",
        context: Context | None = None,
        timeout: float | None = None,
    ) -> list[Wrapped | KeyfoldError]:
        """As `Client.batch_wrap`."""
        return await self._batch(batches.wraps(cluster, items, region, context), timeout)

    async def batch_unwrap(
        self,
        cluster: str,
        items: Iterable[UnwrapItem | Buffer],
        *,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> list[Unwrapped | KeyfoldError]:
        """As `Client.batch_unwrap`."""
        return await self._batch(batches.unwraps(cluster, items, context), timeout)

    async def batch_rewrap(
        self,
        cluster: str,
        items: Iterable[RewrapItem | Buffer],
        *,
        context: Context | None = None,
        destination: Destination | None = None,
        timeout: float | None = None,
    ) -> list[Rewrapped | KeyfoldError]:
        """As `Client.batch_rewrap`."""
        return await self._batch(batches.rewraps(cluster, items, context, destination), timeout)
