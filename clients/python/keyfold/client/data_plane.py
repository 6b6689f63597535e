"""Wrapping and unwrapping keys, one by one and in batches."""

from __future__ import annotations

from collections.abc import Iterable

from keyfold import calls
from keyfold.calls import batches
from keyfold.client.connection import Connection
from keyfold.errors import KeyfoldError
from keyfold.models.results import DataKey, Rewrapped, Unwrapped, Wrapped
from keyfold.models.specs import Buffer, Context, Destination, RewrapItem, UnwrapItem, WrapItem


class DataPlane(Connection):
    """The calls that programs make all day."""

    def wrap(
        self,
        cluster: str,
        region: str,
        plaintext: Buffer,
        *,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> Wrapped:
        """Wraps a key of 1 to 4,096 bytes under the newest generation of a region.

        Unwrap must present the same `context`: at most 16 pairs and 4,096 bytes.

        Example:
            >>> wrapped = client.wrap("prod", "eu", bytes(32), context={"table": "users"})
            >>> len(wrapped.wrapped_key)
            122
        """
        return self._ask(calls.wrap(cluster, region, plaintext, context), timeout)

    def unwrap(
        self,
        cluster: str,
        wrapped_key: Buffer,
        *,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> Unwrapped:
        """Opens a wrapped key with the context of its wrapping.

        Example:
            >>> wrapped = client.wrap("prod", "eu", bytes(32), context={"table": "users"})
            >>> try:
            ...     client.unwrap("prod", wrapped.wrapped_key, context={"table": "orders"})
            ... except keyfold.ContextMismatchError as error:
            ...     print(error.reason)
            CONTEXT_MISMATCH
        """
        return self._ask(calls.unwrap(cluster, wrapped_key, context), timeout)

    def generate_data_key(
        self,
        cluster: str,
        region: str,
        *,
        size: int = 32,
        context: Context | None = None,
        wrapped_only: bool = False,
        timeout: float | None = None,
    ) -> DataKey:
        """Makes a fresh key of 16, 24, 32 or 64 bytes and wraps it.

        With `wrapped_only` the plaintext stays behind: for a program that stores keys and
        never uses them.
        """
        call = calls.generate_data_key(cluster, region, size, context, wrapped_only=wrapped_only)
        return self._ask(call, timeout)

    def rewrap(
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
        """
        return self._ask(calls.rewrap(cluster, wrapped_key, context, destination), timeout)

    def batch_wrap(
        self,
        cluster: str,
        items: Iterable[WrapItem | Buffer],
        *,
        region: str = "",
        context: Context | None = None,
        timeout: float | None = None,
    ) -> list[Wrapped | KeyfoldError]:
        """Wraps any number of keys; for each, in order, its answer or why there is none.

        `region` and `context` are those of items without their own. Sent are as many calls as
        1,000 items and 4 MiB for each make necessary, one after another, and `timeout` is for
        each of them. A call that fails is the result of each of its items; none is raised.

        Example:
            >>> results = client.batch_wrap("prod", [bytes(32), b""], region="eu")
            >>> [getattr(result, "reason", "wrapped") for result in results]
            ['wrapped', 'INVALID_PLAINTEXT']
        """
        return self._batch(batches.wraps(cluster, items, region, context), timeout)

    def batch_unwrap(
        self,
        cluster: str,
        items: Iterable[UnwrapItem | Buffer],
        *,
        context: Context | None = None,
        timeout: float | None = None,
    ) -> list[Unwrapped | KeyfoldError]:
        """Opens any number of wrapped keys; see `batch_wrap`."""
        return self._batch(batches.unwraps(cluster, items, context), timeout)

    def batch_rewrap(
        self,
        cluster: str,
        items: Iterable[RewrapItem | Buffer],
        *,
        context: Context | None = None,
        destination: Destination | None = None,
        timeout: float | None = None,
    ) -> list[Rewrapped | KeyfoldError]:
        """Rewraps any number of wrapped keys; see `batch_wrap`."""
        return self._batch(batches.rewraps(cluster, items, context, destination), timeout)
