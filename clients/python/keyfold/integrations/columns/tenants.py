"""The clusters of an application's tenants, and the envelopes that seal for them."""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import keyfold
from keyfold.integrations.columns.faults import EncryptedColumnError
from keyfold.integrations.columns.place import Column, Place
from keyfold.integrations.naming import named

_MOST_ENVELOPES: Final = 1_000
"""Without a cache, each envelope holds a data key to seal with."""


class Tenants:
    """Seals and opens the values of encrypted columns, each under the key of its row's tenant.

    Any number of threads may share it. Every method raises `KeyfoldError`, whose message names the
    column and the cluster.

    Args:
        client: The client that makes and unwraps data keys.
        region: The region whose keys seal: its name, or a function that returns the name for a
            tenant.
        cluster: A function that returns the cluster's name for a tenant; by default they are the
            same.
        cache: What keeps data keys. Without it, each value that is opened by itself is a call.
    """

    def __init__(
        self,
        client: keyfold.Client | keyfold.AsyncClient,
        region: str | Callable[[str], str],
        *,
        cluster: Callable[[str], str] = str,
        cache: keyfold.KeyCache | keyfold.AsyncKeyCache | None = None,
    ) -> None:
        is_async = isinstance(client, keyfold.AsyncClient)
        if cache is not None and is_async is not isinstance(cache, keyfold.AsyncKeyCache):
            raise TypeError("a Client takes a KeyCache, and an AsyncClient an AsyncKeyCache")
        self._client = client
        self._region = region
        self._cluster = cluster
        self._cache = cache
        self._lock = threading.Lock()
        self._envelopes: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def seal(self, place: Place, data: bytes) -> bytes:
        """Returns the message of a value.

        Args:
            place: Where it will stand.
            data: The value.
        """
        envelope = self._envelope(place)
        try:
            sealed: bytes = self._settled(envelope.seal(data, place.pairs))
        except keyfold.KeyfoldError as error:
            raise self._at(place, error) from error
        return sealed

    def open(self, place: Place, message: bytes) -> bytes:
        """Returns the value of a message.

        Raises:
            MessageContextError: The message belongs to another row, column, table or tenant.
        """
        (opened,) = self.open_many([(place, message)])
        if isinstance(opened, keyfold.KeyfoldError):
            raise opened
        return opened

    def open_many(
        self, messages: Sequence[tuple[Place, bytes]]
    ) -> list[bytes | keyfold.KeyfoldError]:
        """Returns the values of messages, or the error of each: one call for each tenant's."""
        results: list[bytes | keyfold.KeyfoldError | None] = [None] * len(messages)
        parts: dict[tuple[str, str], list[int]] = {}
        for at, (place, _) in enumerate(messages):
            parts.setdefault((place.tenant, place.column.table), []).append(at)
        for part in parts.values():
            for at, result in zip(part, self._opened([messages[at] for at in part]), strict=True):
                results[at] = result
        return [result for result in results if result is not None]

    def rekey_many(
        self, column: Column, tenant: str, messages: Iterable[bytes]
    ) -> list[bytes | keyfold.KeyfoldError]:
        """Moves one tenant's messages to its newest keys; returns a message or an error of each."""
        place = Place(column, tenant, ())
        moved = self._settled(self._envelope(place).rekey_many(messages))
        return [
            self._at(place, one) if isinstance(one, keyfold.KeyfoldError) else one for one in moved
        ]

    def _opened(self, messages: list[tuple[Place, bytes]]) -> list[bytes | keyfold.KeyfoldError]:
        """Opens messages of one tenant and table."""
        try:
            envelope = self._envelope(messages[0][0])
        except keyfold.KeyfoldError as error:
            # A tenant that cannot be one must not keep the rows beside it from opening.
            return [error] * len(messages)
        found = self._many(envelope, [(message, place.pairs) for place, message in messages])
        # Values that were sealed before their row had a number say so. A value that is bound to
        # another row does not have these pairs either.
        again = [
            (at, earlier)
            for at, (place, _) in enumerate(messages)
            if isinstance(found[at], keyfold.MessageContextError)
            and (earlier := place.earlier_pairs) is not None
        ]
        if again:
            opened = self._many(envelope, [(messages[at][1], pairs) for at, pairs in again])
            for (at, _), result in zip(again, opened, strict=True):
                found[at] = result
        return [
            self._at(place, one) if isinstance(one, keyfold.KeyfoldError) else one
            for (place, _), one in zip(messages, found, strict=True)
        ]

    def _many(
        self, envelope: Any, messages: list[tuple[bytes, dict[str, str]]]
    ) -> list[bytes | keyfold.KeyfoldError]:
        if len(messages) > 1:
            opened: list[bytes | keyfold.KeyfoldError] = self._settled(envelope.open_many(messages))
            return opened
        try:
            return [self._settled(envelope.open(*messages[0]))]
        except keyfold.KeyfoldError as error:
            return [error]

    def _envelope(self, place: Place) -> Any:
        name = (place.tenant, place.column.table)
        with self._lock:
            envelope = self._envelopes.get(name)
            if envelope is not None:
                self._envelopes.move_to_end(name)
                return envelope
        made = self._made(place)
        with self._lock:
            # The first one stays: it may hold a data key already.
            envelope = self._envelopes.setdefault(name, made)
            while len(self._envelopes) > _MOST_ENVELOPES:
                self._envelopes.popitem(last=False)
        return envelope

    def _made(self, place: Place) -> Any:
        region = self._region if isinstance(self._region, str) else self._region(place.tenant)
        options: dict[str, Any] = {"context": {"table": place.column.table}, "cache": self._cache}
        kind: Any = keyfold.Envelope
        if isinstance(self._client, keyfold.AsyncClient):
            kind = keyfold.AsyncEnvelope
        try:
            return kind(self._client, self._cluster(place.tenant), region, **options)
        except keyfold.KeyfoldError as error:
            raise self._at(place, error) from error

    def _settled(self, result: Any) -> Any:
        """Returns what an envelope's method returned; an AsyncEnvelope's is awaited."""
        if inspect.iscoroutine(result):
            result.close()
            raise EncryptedColumnError(
                "these encrypted columns are used without an event loop; make Tenants with a Client"
            )
        return result

    def _at(self, place: Place, error: keyfold.KeyfoldError) -> keyfold.KeyfoldError:
        cluster = self._cluster(place.tenant)
        return named(
            error,
            f"column {place.column} of cluster {cluster}",
            cluster=cluster,
            table=place.column.table,
            column=place.column.name,
        )
