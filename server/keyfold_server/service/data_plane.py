"""The synchronous core: wrap, unwrap, generate, rewrap, and their batches (protocol R3).

From the last check of state, staleness and freshness to the sealed or opened bytes there is no
await and no thread, so no revocation can slip in between. What is not in memory is asked for by
raising `NeedsLoad`; the caller loads it and runs the same function again. There is no other path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from keyfold_server.domain.envelope import (
    Kek,
    WrappedKey,
    check_plaintext,
    encode_context,
    parse,
)
from keyfold_server.domain.errors import (
    CouldNotTellError,
    InvalidBatchError,
    InvalidContextError,
    InvalidSizeError,
    KeyfoldError,
    OverloadedError,
    RegionNotFoundError,
    UnknownKekError,
    WrongClusterError,
)
from keyfold_server.domain.keyspec import check_name
from keyfold_server.domain.ports import Clock
from keyfold_server.service.keys import KeyCache, OpenKek, RegionView, View

_K = TypeVar("_K")
_A = TypeVar("_A")
_R = TypeVar("_R")

MAX_BATCH: Final = 1_000
"""Items of one batch; design section 2."""

OUTAGE_BELIEVED: Final = 10.0
"""Seconds for which an outage is believed beyond the time to ask again, which asking may take.
After that a KEK without a proof waits for the KMS's answer: it may be a refusal by now."""

DATA_KEY_SIZES: Final = (16, 24, 32, 64)
"""Bytes of a data key that GenerateDataKey makes."""


class Need(NamedTuple):
    """Something that a call lacks.

    Attributes:
        cluster: Whose.
        kek_id: The KEK to open; empty: the cluster itself, read after the call arrived.
    """

    cluster: str
    kek_id: bytes = b""


class NeedsLoad(Exception):  # noqa: N818  a request of the core, not an error
    """Raised by the core where something is not in memory."""

    def __init__(self, needs: Sequence[Need]) -> None:
        """Names all that is known to be lacking."""
        super().__init__()
        self.needs = needs


@dataclass(slots=True)
class Call:
    """What one call has fetched for itself.

    Attributes:
        arrived: Monotonic seconds not before the call's arrival.
        own: KEKs opened by an unwrap that began after the call arrived, by kek_id. At TTL 0 this
            is the only way to a KEK; it belongs to this call alone.
        failed: Why a need could not be met.
        read: Clusters read from the store since the call arrived.
        owners: Whose a KEK is, where it is not this cluster's: None for nobody's.
    """

    arrived: float = 0.0
    own: dict[bytes, OpenKek] = field(default_factory=dict)
    failed: dict[Need, KeyfoldError] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    owners: dict[bytes, str | None] = field(default_factory=dict)


class Target(NamedTuple):
    """Where Rewrap moves a key; None keeps.

    Attributes:
        cluster: Another cluster, or None.
        region: Another region, or None.
        context: The new context, as it stands.
    """

    cluster: str | None
    region: str | None
    context: Mapping[str, str]


class Opened(NamedTuple):
    """An unwrapped key. Not for logs: the first field is the key."""

    plaintext: bytes
    region: str
    generation: int


class DataPlane:
    """The core over one replica's memory."""

    def __init__(
        self,
        cache: KeyCache,
        clock: Clock,
        check_serving: Callable[[float], None],
        wanted: Callable[[OpenKek, float], None],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Joins the core to what it asks; every callable is synchronous and cheap.

        Args:
            cache: Views and open KEKs.
            clock: Monotonic time.
            check_serving: Raises where this replica must not serve (stale, rolled back).
            wanted: Told of a KEK served on grace, so that its root key is asked again.
            random: Source of nonces and data keys.
        """
        self._cache = cache
        self._clock = clock
        self._check_serving = check_serving
        self._wanted = wanted
        self._random = random

    def wrap(
        self, cluster: str, region: str, plaintext: bytes, context: Mapping[str, str], call: Call
    ) -> tuple[bytes, int]:
        """Wraps a key of 1 to 4,096 bytes; returns the wrapped key and its generation."""
        bound = encode_context(context)
        kek = self._wrapping(cluster, region, self._now(), call)
        return kek.seal(plaintext, bound, self._random), kek.generation

    def unwrap(
        self, cluster: str, wrapped_key: bytes, context: Mapping[str, str], call: Call
    ) -> Opened:
        """Opens a wrapped key."""
        wrapped = parse(wrapped_key)
        bound = encode_context(context)
        kek = self._opening(cluster, wrapped.kek_id, self._now(), call)
        return Opened(kek.open(wrapped, bound), kek.region, kek.generation)

    def generate(
        self,
        cluster: str,
        region: str,
        size: int,
        context: Mapping[str, str],
        call: Call,
    ) -> tuple[bytes, bytes, int]:
        """Makes a data key; returns it with its wrapped form and generation.

        Raises:
            InvalidSizeError: The size is none of 16, 24, 32 and 64; 0 means 32.
        """
        size = size or 32
        if size not in DATA_KEY_SIZES:
            raise InvalidSizeError(
                f"a data key has 16, 24, 32 or 64 bytes, not {size}", field="size"
            )
        plaintext = self._random(size)
        return plaintext, *self.wrap(cluster, region, plaintext, context, call)

    def rewrap(
        self,
        cluster: str,
        wrapped_key: bytes,
        context: Mapping[str, str],
        target: Target | None,
        call: Call,
    ) -> tuple[bytes, int, bool]:
        """Moves a wrapped key; returns it, its generation, and whether it was current already."""
        wrapped = parse(wrapped_key)
        bound = encode_context(context)
        to_bound = bound if target is None else _encode_new(target.context)
        now = self._now()
        source = self._opening(cluster, wrapped.kek_id, now, call)
        to_cluster = cluster if target is None or target.cluster is None else target.cluster
        to_region = source.region if target is None or target.region is None else target.region
        sealing = self._wrapping(to_cluster, to_region, now, call)
        # Opened even where nothing will change: a spoiled key must not be called current.
        plaintext = source.open(wrapped, bound)
        if sealing is source and to_bound == bound:
            return wrapped_key, source.generation, True
        return sealing.seal(plaintext, to_bound, self._random), sealing.generation, False

    def wrap_batch(
        self,
        cluster: str,
        items: Sequence[tuple[str, bytes, Mapping[str, str] | None]],
        context: Mapping[str, str],
        call: Call,
    ) -> list[tuple[bytes, int] | KeyfoldError]:
        """Wraps many keys given as (region, plaintext, own context or None)."""
        _check_batch(items)
        shared = _Shared(context)
        keks = self._gather(
            dict.fromkeys(region for region, _, _ in items),
            lambda region, now: self._wrapping(cluster, region, now, call),
        )
        results: list[tuple[bytes, int] | KeyfoldError | None] = [None] * len(items)
        by_kek: dict[str, list[tuple[int, bytes, bytes]]] = {}
        for index, (region, plaintext, own) in enumerate(items):
            try:
                bound = shared.encoded() if own is None else encode_context(own)
                kek = keks[region]
                if isinstance(kek, KeyfoldError):
                    raise kek
                check_plaintext(plaintext)
                by_kek.setdefault(region, []).append((index, plaintext, bound))
            except KeyfoldError as error:
                results[index] = error
        for region, chosen in by_kek.items():
            kek = keks[region]
            assert isinstance(kek, Kek)  # noqa: S101  only such regions were collected
            blobs = kek.seal_batch([(key, bound) for _, key, bound in chosen], self._random)
            for (index, _, _), blob in zip(chosen, blobs, strict=True):
                results[index] = (blob, kek.generation)
        return [result for result in results if result is not None]

    def unwrap_batch(
        self,
        cluster: str,
        items: Sequence[tuple[bytes, Mapping[str, str] | None]],
        context: Mapping[str, str],
        call: Call,
    ) -> list[Opened | KeyfoldError]:
        """Opens many wrapped keys given as (wrapped key, own context or None)."""
        _check_batch(items)
        shared = _Shared(context)
        parsed = [_attempt(parse, wrapped_key) for wrapped_key, _ in items]
        keks = self._gather(
            dict.fromkeys(w.kek_id for w in parsed if isinstance(w, WrappedKey)),
            lambda kek_id, now: self._opening(cluster, kek_id, now, call),
        )
        openers: dict[bytes, Callable[[WrappedKey, bytes], bytes]] = {
            kek_id: kek.opener() for kek_id, kek in keks.items() if isinstance(kek, Kek)
        }
        results: list[Opened | KeyfoldError] = []
        for wrapped, (_, own) in zip(parsed, items, strict=True):
            try:
                if isinstance(wrapped, KeyfoldError):
                    raise wrapped
                bound = shared.encoded() if own is None else encode_context(own)
                kek = keks[wrapped.kek_id]
                if isinstance(kek, KeyfoldError):
                    raise kek
                plaintext = openers[wrapped.kek_id](wrapped, bound)
                results.append(Opened(plaintext, kek.region, kek.generation))
            except KeyfoldError as error:
                results.append(error)
        return results

    def rewrap_batch(
        self,
        cluster: str,
        items: Sequence[tuple[bytes, Mapping[str, str], Target | None]],
        call: Call,
    ) -> list[tuple[bytes, int, bool] | KeyfoldError]:
        """Moves many wrapped keys given as (wrapped key, context, target or None)."""
        _check_batch(items)
        results: list[tuple[bytes, int, bool] | KeyfoldError] = []
        needs: dict[Need, None] = {}
        for wrapped_key, context, target in items:
            try:
                results.append(self.rewrap(cluster, wrapped_key, context, target, call))
            except NeedsLoad as lacking:
                needs.update(dict.fromkeys(lacking.needs))
            except KeyfoldError as error:
                results.append(error)
        if needs:
            raise NeedsLoad(tuple(needs))
        return results

    def _gather(
        self, wanted: Mapping[_K, None], find: Callable[[_K, float], Kek]
    ) -> dict[_K, Kek | KeyfoldError]:
        """Finds a batch's KEKs, or asks for all that are lacking at once."""
        now = self._now()
        found: dict[_K, Kek | KeyfoldError] = {}
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
        return found

    def _now(self) -> float:
        """Returns the time, once this replica may serve at it."""
        now = self._clock.monotonic()
        self._check_serving(now)
        return now

    def _wrapping(self, cluster: str, region: str, now: float, call: Call) -> Kek:
        """Returns the KEK that wraps for a region."""
        view = self._cache.view(cluster) or self._lacking(cluster, call)
        found = view.regions.get(region)
        if found is None:
            found = self._unknown_region(view, region, call)
        return self._kek(view, found, found.newest, now, call)

    def _opening(self, cluster: str, kek_id: bytes, now: float, call: Call) -> Kek:
        """Returns the KEK that a wrapped key names."""
        view = self._cache.view(cluster) or self._lacking(cluster, call)
        found = view.keks.get(kek_id)
        if found is None:
            self._unknown_kek(view, kek_id, call)
        else:
            return self._kek(view, found[0], kek_id, now, call)
        raise AssertionError  # pragma: no cover  _unknown_kek always raises

    def _kek(self, view: View, region: RegionView, kek_id: bytes, now: float, call: Call) -> Kek:
        """Returns a KEK that may be used at this moment (protocol F1)."""
        view.check_usable(region)
        opened = view.open.get(kek_id)
        if opened is not None and now < opened.root.proof + opened.ttl:
            opened.root.used = opened
            return opened.kek
        own = call.own.get(kek_id)
        if own is not None and own.view is view and own.voids == own.root.voids:
            return own.kek
        return self._not_fresh(view, region, kek_id, opened, now, call)

    def _not_fresh(
        self,
        view: View,
        region: RegionView,
        kek_id: bytes,
        opened: OpenKek | None,
        now: float,
        call: Call,
    ) -> Kek:
        cluster = view.cluster.name
        need = Need(cluster, kek_id)
        if region.ttl > 0:
            refused = view.refused.get(kek_id)
            if refused is not None and now < refused.until:
                error = refused.error.at(cluster=cluster, region=region.region.name)
                error.retry_after = refused.until - now
                raise error
            if opened is not None:
                root = opened.root
                if (
                    root.unknown is not None
                    and now < root.unknown_until + OUTAGE_BELIEVED
                    and now < root.proof + opened.ttl + opened.grace
                ):
                    # The KMS cannot be asked: grace, a hard bound from the last proof (F1).
                    root.used = opened
                    self._wanted(opened, now)
                    return opened.kek
            unknown = self._could_not_tell(view, kek_id, now)
            if unknown is not None:
                raise unknown.at(cluster=cluster, region=region.region.name)
        failed = call.failed.get(need)
        if failed is not None:
            raise failed.at(cluster=cluster, region=region.region.name)
        raise NeedsLoad((need,))

    def _could_not_tell(
        self, view: View, kek_id: bytes, now: float
    ) -> CouldNotTellError | OverloadedError | None:
        """Returns the remembered outage of a KEK's root key (protocol W2), or None."""
        root = self._cache.known_root(view.keks[kek_id][1].current.root_id)
        if root is None or root.unknown is None or now >= root.unknown_until:
            return None
        error = root.unknown.at()
        error.retry_after = root.unknown_until - now
        return error

    def _lacking(self, cluster: str, call: Call) -> View:
        """Asks for a cluster that is not in memory, or says why there is none."""
        check_name(cluster, "cluster")
        need = Need(cluster)
        failed = call.failed.get(need)
        if failed is not None:
            raise failed
        raise NeedsLoad((need,))

    def _unknown_region(self, view: View, region: str, call: Call) -> RegionView:
        """Says that there is no such region, once the store was read for this call."""
        check_name(region, "region")
        self._read_again(view, call)
        raise RegionNotFoundError(
            f"cluster {view.cluster.name} has no region {region}; GetStatus lists its regions",
            cluster=view.cluster.name,
            region=region,
        )

    def _unknown_kek(self, view: View, kek_id: bytes, call: Call) -> None:
        """Says that the KEK is not this cluster's, once the store was read for this call."""
        self._read_again(view, call)
        name = view.cluster.name
        if kek_id not in call.owners:
            raise NeedsLoad((Need(name, kek_id),))
        owner = call.owners[kek_id]
        if owner is not None:
            raise WrongClusterError(
                f"this wrapped key belongs to cluster {owner}; unwrap it there, or move it with "
                "Rewrap",
                cluster=name,
                field="wrapped_key",
            )
        raise UnknownKekError(
            f"cluster {name} has no key encryption key of the id that this wrapped key names",
            cluster=name,
            field="wrapped_key",
        )

    def _read_again(self, view: View, call: Call) -> None:
        """Has the store read once for this call: another replica may just have changed it."""
        name = view.cluster.name
        if name in call.read:
            return
        failed = call.failed.get(Need(name))
        if failed is not None:
            raise failed
        raise NeedsLoad((Need(name),))


class _Shared:
    """A batch's context, encoded when the first item needs it; one that is bad fails each item."""

    __slots__ = ("_context", "_encoded")

    def __init__(self, context: Mapping[str, str]) -> None:
        self._context = context
        self._encoded: bytes | None = None

    def encoded(self) -> bytes:
        if self._encoded is None:
            self._encoded = encode_context(self._context)
        return self._encoded


def _encode_new(context: Mapping[str, str]) -> bytes:
    try:
        return encode_context(context)
    except InvalidContextError as error:
        raise error.at(field="destination") from None


def _check_batch(items: Sequence[object]) -> None:
    if not 1 <= len(items) <= MAX_BATCH:
        raise InvalidBatchError(
            f"a batch has 1 to {MAX_BATCH:,} items, not {len(items):,}", field="items"
        )


def _attempt(function: Callable[[_A], _R], argument: _A) -> _R | KeyfoldError:
    try:
        return function(argument)
    except KeyfoldError as error:
        return error
