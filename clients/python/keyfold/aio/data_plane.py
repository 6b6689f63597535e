"""Wrapping and unwrapping keys, one by one and in batches."""

from __future__ import annotations

from collections.abc import Iterable

from keyfold import calls
from keyfold.aio.connection import Connection
from keyfold.calls import batches
from keyfold.errors import KeyfoldError
from keyfold.models.results import DataKey, Rewrapped, Unwrapped, Wrapped
from keyfold.models.specs import Buffer, Context, Destination, RewrapItem, UnwrapItem, WrapItem


class DataPlane(Connection):
    """The calls that wrap and unwrap keys, for programs that encrypt data."""

    async def wrap(
        self,
        cluster: str,
        region: str,
        plaintext: Buffer,
        *,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> Wrapped:
        """Wraps a key of 1 to 4,096 bytes under the newest generation of a region.

        Unwrapping it takes the same `context`, which has at most 16 pairs and 4,096 bytes.

        Raises:
            InvalidPlaintextError: The key is empty or longer than 4,096 bytes.
            InvalidContextError: The context is out of bounds.
            NotFoundError: There is no such cluster or region, or the caller may not see it.
            StateError: The region is revoked (`RevokedError`) or deleted, or the cluster is
                banned.
            RefusedError: The customer's KMS refuses the root key.
            CouldNotTellError: The KMS gives no answer, for longer than keys serve without one.

        Example:
            >>> wrapped = await client.wrap("prod", "eu", bytes(32), context={"table": "users"})
            >>> len(wrapped.wrapped_key)
            122
        """
        call = calls.wrap(cluster, region, plaintext, context)
        return await self._ask_together(call, timeout)

    async def unwrap(
        self,
        cluster: str,
        wrapped_key: Buffer,
        *,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> Unwrapped:
        """Unwraps a wrapped key; `context` must be the one that it was wrapped with.

        Raises:
            ContextMismatchError: The context is not the one that the key was wrapped with.
            InvalidInputError: The wrapped key is another cluster's, was changed, or is not one;
                the class says which.
            GenerationRetiredError: The generation that wrapped it is retired.
            NotFoundError: There is no such cluster or region, or the caller may not see it.
            StateError: The region is revoked (`RevokedError`) or deleted, or the cluster is
                banned.
            RefusedError: The customer's KMS refuses the root key.
            CouldNotTellError: The KMS gives no answer, for longer than keys serve without one.

        Example:
            >>> wrapped = await client.wrap("prod", "eu", bytes(32), context={"table": "users"})
            >>> try:
            ...     await client.unwrap("prod", wrapped.wrapped_key, context={"table": "orders"})
            ... except keyfold.ContextMismatchError as error:
            ...     print(error.reason)
            CONTEXT_MISMATCH
        """
        call = calls.unwrap(cluster, wrapped_key, context)
        return await self._ask_together(call, timeout)

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
        """Makes a new key of 16, 24, 32 or 64 bytes and wraps it.

        With `wrapped_only` the server keeps the plaintext to itself, which suits a program that
        stores keys and never uses them.

        Raises:
            InvalidSizeError: No data key has this size.
            InvalidContextError: The context is out of bounds.
            NotFoundError: There is no such cluster or region, or the caller may not see it.
            StateError: The region is revoked (`RevokedError`) or deleted, or the cluster is
                banned.
            RefusedError: The customer's KMS refuses the root key.
            CouldNotTellError: The KMS gives no answer, for longer than keys serve without one.
        """
        call = calls.generate_data_key(cluster, region, size, context, wrapped_only=wrapped_only)
        return await self._ask(call, timeout)

    async def generate_data_keys(
        self,
        cluster: str,
        region: str,
        count: int,
        *,
        size: int = 32,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> list[DataKey]:
        """Makes any number of new keys of 16, 24, 32 or 64 bytes, and has the server wrap them.

        The client draws the keys from the operating system and wraps them as a batch, so that a
        thousand of them are one call, which the server counts as a BatchWrap. The answers are
        those of `generate_data_key`. If a key cannot be wrapped, the method raises its error and
        returns none of the keys. More than 1,000 keys take several calls, one after another, and
        `timeout` is the deadline of each.

        Raises:
            InvalidSizeError: No data key has this size.
            InvalidContextError: The context is out of bounds.
            NotFoundError: There is no such cluster or region, or the caller may not see it.
            StateError: The region is revoked (`RevokedError`) or deleted, or the cluster is
                banned.
            RefusedError: The customer's KMS refuses the root key.
            CouldNotTellError: The KMS gives no answer, for longer than keys serve without one.

        Example:
            >>> keys = await client.generate_data_keys("prod", "eu", 100, context={"disk": "7"})
            >>> len(keys), keys[0].plaintext, len(keys[0].wrapped_key)
            (100, Plaintext(<32 bytes>), 122)
        """
        made: list[DataKey] = []
        for keys in batches.draw(cluster, region, count, size):
            parts = batches.wraps(cluster, keys, region, context)
            results = await self._batch(parts, timeout)
            made += batches.data_keys(keys, results)
        return made

    async def rewrap(
        self,
        cluster: str,
        wrapped_key: Buffer,
        *,
        context: Context | None = None,
        destination: Destination | None = None,
        timeout: float | None = None,
    ) -> Rewrapped:
        """Moves a wrapped key to the newest generation, or to a destination.

        The plaintext never leaves the server.

        Raises:
            ContextMismatchError: The context is not the one that the key was wrapped with.
            InvalidInputError: The wrapped key is another cluster's, was changed, or is not one;
                the class says which.
            GenerationRetiredError: The generation that wrapped it is retired.
            NotFoundError: There is no such cluster or region, or the caller may not see it.
            StateError: The region is revoked (`RevokedError`) or deleted, or the cluster is
                banned.
            RefusedError: The customer's KMS refuses the root key.
            CouldNotTellError: The KMS gives no answer, for longer than keys serve without one.
        """
        call = calls.rewrap(cluster, wrapped_key, context, destination)
        return await self._ask_together(call, timeout)

    async def batch_wrap(
        self,
        cluster: str,
        items: Iterable[WrapItem | Buffer],
        *,
        region: str = "",
        context: Context | None = None,
        timeout: float | None = None,
    ) -> list[Wrapped | KeyfoldError]:
        """Wraps any number of keys and returns, in their order, a result or an error for each.

        `region` and `context` apply to items that do not set their own. The client sends calls of
        at most 1,000 items and 4 MiB, one after another, and `timeout` is the deadline of each. A
        call that fails does not raise: its error is the result of each of its items.

        Raises:
            ArgumentTypeError: An item is neither bytes nor a `WrapItem`; nothing was sent.

        Example:
            >>> results = await client.batch_wrap("prod", [bytes(32), b""], region="eu")
            >>> [getattr(result, "reason", "wrapped") for result in results]
            ['wrapped', 'INVALID_PLAINTEXT']
        """
        return await self._batch(batches.wraps(cluster, items, region, context), timeout)

    async def batch_unwrap(
        self,
        cluster: str,
        items: Iterable[UnwrapItem | Buffer],
        *,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> list[Unwrapped | KeyfoldError]:
        """Unwraps any number of wrapped keys; `batch_wrap` describes results and limits.

        Raises:
            ArgumentTypeError: An item is neither bytes nor an `UnwrapItem`; nothing was sent.
        """
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
        """Rewraps any number of wrapped keys; `batch_wrap` describes results and limits.

        Raises:
            ArgumentTypeError: An item is neither bytes nor a `RewrapItem`; nothing was sent.
        """
        return await self._batch(batches.rewraps(cluster, items, context, destination), timeout)
