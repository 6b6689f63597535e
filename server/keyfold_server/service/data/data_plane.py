"""The synchronous core: wrap, unwrap, generate, rewrap, and their batches (protocol R3).

From the last check of state, staleness and freshness to the sealed or opened bytes, the code
neither awaits nor changes threads, so no revocation can slip in between. Where something is not
in memory, the core raises `NeedsLoad`; its caller loads that and runs the same function again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from keyfold_server.domain.envelope import (
    Kek,
    encode_context,
    kek_id_of,
)
from keyfold_server.domain.errors import (
    InvalidBatchError,
    InvalidContextError,
    InvalidSizeError,
    KeyfoldError,
)
from keyfold_server.service.data.batch_items import BatchResult, answered
from keyfold_server.service.data.call import Call, Need, NeedsLoad
from keyfold_server.service.data.keyring import GrantedKek, Keyring, check_context

_K = TypeVar("_K")
_A = TypeVar("_A")
_R = TypeVar("_R")

MAX_BATCH_ITEMS: Final = 1_000
"""Most items of one batch."""

DATA_KEY_SIZES: Final = (16, 24, 32, 64)
"""Sizes in bytes of the data keys that GenerateDataKey makes."""


class Destination(NamedTuple):
    """Where Rewrap moves a key.

    Attributes:
        cluster: Another cluster; None keeps the cluster.
        region: Another region; None keeps the region.
        context: The new context. It replaces the old one as a whole.
    """

    cluster: str | None
    region: str | None
    context: Mapping[str, str]


WrapResult = tuple[bytes, int, float]
"""A wrapped key, its generation, and the seconds for which the caller may keep the plaintext."""


class UnwrapResult(NamedTuple):
    """An unwrapped key with its region and generation. Never log it: `plaintext` is the key.

    `max_cache_age` is the seconds for which the caller may keep the key: its region's TTL.
    """

    plaintext: bytes
    region: str
    generation: int
    max_cache_age: float


class DataPlane:
    """Wrap, Unwrap, GenerateDataKey and Rewrap over one replica's keyring."""

    def __init__(self, keyring: Keyring, random: Callable[[int], bytes] = os.urandom) -> None:
        """Joins the core to its keys.

        Args:
            keyring: Gives out the KEKs.
            random: Returns random bytes for nonces and data keys.
        """
        self._keyring = keyring
        self._random = random

    def wrap(
        self, cluster: str, region: str, plaintext: bytes, context: Mapping[str, str], call: Call
    ) -> WrapResult:
        """Wraps a key of 1 to 4,096 bytes."""
        bound = encode_context(context)
        kek, contexts, ttl = self._keyring.wrapping(cluster, region, self._keyring.now(), call)
        if contexts:
            check_context(contexts, context)
        return kek.seal(plaintext, bound, self._random), kek.generation, ttl

    def unwrap(
        self, cluster: str, wrapped_key: bytes, context: Mapping[str, str], call: Call
    ) -> UnwrapResult:
        """Opens a wrapped key."""
        kek_id = kek_id_of(wrapped_key)
        bound = encode_context(context)
        now = self._keyring.now()
        kek, contexts, ttl = self._keyring.opening(cluster, kek_id, now, call)
        if contexts:
            check_context(contexts, context)
        return UnwrapResult(kek.open(wrapped_key, bound), kek.region, kek.generation, ttl)

    def generate(
        self, cluster: str, region: str, size: int, context: Mapping[str, str], call: Call
    ) -> tuple[bytes, bytes, int, float]:
        """Makes a data key and wraps it; returns the data key, and then what `wrap` returns.

        Raises:
            InvalidSizeError: The size is not 16, 24, 32, 64 or 0, which means 32.
        """
        size = size or 32
        if size not in DATA_KEY_SIZES:
            raise InvalidSizeError(
                f"a data key has 16, 24, 32 or 64 bytes, not {size}", field="size"
            )
        bound = encode_context(context)
        kek, contexts, ttl = self._keyring.wrapping(cluster, region, self._keyring.now(), call)
        if contexts:
            check_context(contexts, context)
        plaintext = self._random(size)
        return plaintext, kek.seal(plaintext, bound, self._random), kek.generation, ttl

    def rewrap(
        self,
        cluster: str,
        wrapped_key: bytes,
        context: Mapping[str, str],
        destination: Destination | None,
        call: Call,
    ) -> tuple[bytes, int, bool]:
        """Moves a wrapped key to its region's newest generation, or to a destination.

        Returns:
            The wrapped key, its generation, and whether it was current already.
        """
        kek_id = kek_id_of(wrapped_key)
        bound = encode_context(context)
        to_bound = bound if destination is None else self._encode_new(destination.context)
        now = self._keyring.now()
        try:
            source, contexts, _ = self._keyring.opening(cluster, kek_id, now, call)
        except NeedsLoad as lacking:
            if destination is None or destination.region is None:
                raise
            # Both sides are loaded at once, and neither if the destination refuses.
            to = destination.cluster or cluster, destination.region
            try:
                self._keyring.wrapping(*to, now, call, items=0)
            except NeedsLoad as more:
                needs = dict.fromkeys((*lacking.needs, *more.needs))
                raise NeedsLoad(tuple(needs)) from None
            raise
        check_context(contexts, context)
        to_cluster, to_region, to_context = cluster, source.region, context
        if destination is not None:
            to_context = destination.context
            to_cluster = cluster if destination.cluster is None else destination.cluster
            to_region = source.region if destination.region is None else destination.region
        sealing, to_contexts, _ = self._keyring.wrapping(to_cluster, to_region, now, call)
        check_context(to_contexts, to_context)
        # Opened even where nothing will change: a corrupt key must not be called current.
        plaintext = source.open(wrapped_key, bound)
        if sealing is source and to_bound == bound:
            return wrapped_key, source.generation, True
        return sealing.seal(plaintext, to_bound, self._random), sealing.generation, False

    def wrap_batch(
        self,
        cluster: str,
        items: Sequence[tuple[str, bytes, Mapping[str, str] | None]],
        context: Mapping[str, str],
        call: Call,
    ) -> list[BatchResult]:
        """Wraps many keys given as (region, plaintext, own context or None)."""
        self._check_batch(items)
        keks = self._gather(
            cluster,
            Counter([region for region, _, _ in items]),
            lambda region, now: self._keyring.wrapping(cluster, region, now, call, items=0),
        )
        return answered(
            items, keks, context, lambda kek, sealing: kek.seal_batch(sealing, self._random)
        )

    def unwrap_batch(
        self,
        cluster: str,
        items: Sequence[tuple[bytes, Mapping[str, str] | None]],
        context: Mapping[str, str],
        call: Call,
    ) -> list[BatchResult]:
        """Opens many wrapped keys given as (wrapped key, own context or None)."""
        self._check_batch(items)
        asked = [(_attempt(kek_id_of, blob), blob, own) for blob, own in items]
        keks = self._gather(
            cluster,
            Counter([kek_id for kek_id, _, _ in asked if isinstance(kek_id, bytes)]),
            lambda kek_id, now: self._keyring.opening(cluster, kek_id, now, call, items=0),
        )
        return answered(asked, keks, context, Kek.open_batch)

    def rewrap_batch(
        self,
        cluster: str,
        items: Sequence[tuple[bytes, Mapping[str, str], Destination | None]],
        call: Call,
    ) -> list[tuple[bytes, int, bool] | KeyfoldError]:
        """Moves many wrapped keys given as (wrapped key, context, destination or None)."""
        self._check_batch(items)
        results: list[tuple[bytes, int, bool] | KeyfoldError] = []
        needs: dict[Need, None] = {}
        for wrapped_key, context, destination in items:
            try:
                results.append(self.rewrap(cluster, wrapped_key, context, destination, call))
            except NeedsLoad as lacking:
                needs.update(dict.fromkeys(lacking.needs))
            except KeyfoldError as error:
                results.append(error)
        if needs:
            raise NeedsLoad(tuple(needs))
        return results

    def _gather(
        self, cluster: str, wanted: Counter[_K], find: Callable[[_K, float], GrantedKek]
    ) -> dict[_K, GrantedKek | KeyfoldError]:
        """Finds a batch's KEKs, or asks for all missing ones at once; charges for their items.

        Raises:
            NeedsLoad: One or more are not in memory.
        """
        now = self._keyring.now()
        found: dict[_K, GrantedKek | KeyfoldError] = {}
        needs: dict[Need, None] = {}
        for key in wanted:
            try:
                found[key] = find(key, now)
            except NeedsLoad as lacking:
                needs.update(dict.fromkeys(lacking.needs))
            except KeyfoldError as error:
                found[key] = error
        if needs:
            raise NeedsLoad(tuple(needs))
        granted = [key for key, kek in found.items() if isinstance(kek, GrantedKek)]
        try:
            self._keyring.charge(cluster, now, sum(wanted[key] for key in granted))
        except KeyfoldError as error:
            found |= dict.fromkeys(granted, error)
        return found

    def _encode_new(self, context: Mapping[str, str]) -> bytes:
        try:
            return encode_context(context)
        except InvalidContextError as error:
            raise error.at(field="destination") from None

    def _check_batch(self, items: Sequence[object]) -> None:
        if not 1 <= len(items) <= MAX_BATCH_ITEMS:
            raise InvalidBatchError(
                f"a batch has 1 to {MAX_BATCH_ITEMS:,} items, not {len(items):,}", field="items"
            )


def _attempt(function: Callable[[_A], _R], argument: _A) -> _R | KeyfoldError:
    try:
        return function(argument)
    except KeyfoldError as error:
        return error
