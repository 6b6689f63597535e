# Generated from envelope/aio/keeper.py by `make client`; never edited.

"""The source of data keys: what the envelope needs of one, and one that keeps a single key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from keyfold.calls.watch import Moment, moment
from keyfold.client.data_plane import DataPlane
from keyfold.envelope.cipher import key_of
from keyfold.envelope.keys import Bounds, OpeningKey, SealingKey
from keyfold.errors import KeyfoldError
from keyfold.models.specs import Buffer, Context, UnwrapItem
from keyfold.transport.forks import forks

if TYPE_CHECKING:
    from keyfold.crypto.xaes import SharedKey


@runtime_checkable
class KeySource(Protocol):
    """Gives out data keys. A key stays whole until the block that entered it ends."""

    def sealing_key(
        self,
        cluster: str,
        region: str,
        context: Context,
        *,
        size: int,
        bounds: Bounds,
        timeout: float | None,
    ) -> AbstractContextManager[SealingKey]:
        """Gives out a key that may seal one more message, and counts that message.

        Args:
            cluster: The cluster.
            region: The region to wrap under.
            context: The context to wrap with.
            size: Bytes of the message's data.
            bounds: How long one key may seal.
            timeout: Deadline of the call that makes a key, in seconds; None: the client's.
        """
        ...

    def opening_key(
        self, cluster: str, wrapped_key: bytes, context: Context, *, timeout: float | None
    ) -> AbstractContextManager[OpeningKey]:
        """Gives out the key that is wrapped in `wrapped_key`."""
        ...

    def opening_keys(
        self,
        cluster: str,
        wrapped_keys: Iterable[tuple[bytes, Context]],
        *,
        timeout: float | None,
    ) -> AbstractContextManager[Sequence[OpeningKey | KeyfoldError]]:
        """Gives out many keys, each with its context, or the error of each, in their order."""
        ...


class _Opening:
    """The answer to one unwrapping."""

    def __init__(self, secret: Buffer) -> None:
        self._secret = secret

    @cached_property
    def key(self) -> SharedKey:
        """The key, ready to use."""
        return key_of(self._secret)


@dataclass(slots=True)
class _Key:
    """A data key with what it has sealed, for what it was made, and how long it may be kept."""

    key: SharedKey
    wrapped_key: bytes
    made_for: tuple[str, str, Context]
    asked_at: Moment
    until: Moment
    messages: int = 0
    bytes: int = 0

    def may_seal(self, size: int, bounds: Bounds) -> bool:
        """Returns whether one more message of this size is within the bounds."""
        now = moment()
        return now.before(self.until) and bounds.allow(
            self.messages, self.bytes + size, self.asked_at, now
        )

    def count(self, size: int) -> None:
        """Counts one message."""
        self.messages += 1
        self.bytes += size


class Keeper:
    """Keeps the newest data key to seal with, and none to open with: the server opens each.

    So a revocation reaches everything that is opened at once, and nothing else that is sealed
    before the key's age ends.
    """

    def __init__(self, client: DataPlane) -> None:
        self._client = client
        self._turn = Lock()
        self._held: _Key | None = None
        self._forks = forks()

    @contextmanager
    def sealing_key(
        self,
        cluster: str,
        region: str,
        context: Context,
        *,
        size: int,
        bounds: Bounds,
        timeout: float | None,
    ) -> Iterator[SealingKey]:
        """Gives out the key that it holds, or a new one, which it then holds."""
        if self._forks != forks():
            # A thread of the parent may hold the lock, and the key is the parent's.
            self._turn, self._held, self._forks = Lock(), None, forks()
        made_for = (cluster, region, context)
        with self._turn:
            key = self._held
            if key is None or key.made_for != made_for or not key.may_seal(size, bounds):
                key = None
            else:
                key.count(size)
        if key is None:
            # Not under the lock: each caller waits for its own call, under its own deadline. That
            # several make a key at the same time does no harm.
            key = self._new_key(made_for, timeout)
            key.count(size)
            with self._turn:
                self._held = key
        yield key

    @contextmanager
    def opening_key(
        self, cluster: str, wrapped_key: Buffer, context: Context, *, timeout: float | None
    ) -> Iterator[OpeningKey]:
        """Has the server unwrap a key, which is dropped with the block."""
        unwrapped = self._client.unwrap(cluster, wrapped_key, context=context, timeout=timeout)
        yield _Opening(unwrapped.plaintext)

    @contextmanager
    def opening_keys(
        self,
        cluster: str,
        wrapped_keys: Iterable[tuple[Buffer, Context]],
        *,
        timeout: float | None,
    ) -> Iterator[list[OpeningKey | KeyfoldError]]:
        """Has the server unwrap keys in batches, which are dropped with the block."""
        items = [UnwrapItem(wrapped_key, context) for wrapped_key, context in wrapped_keys]
        answers = self._client.batch_unwrap(cluster, items, timeout=timeout)
        yield [
            answer if isinstance(answer, KeyfoldError) else _Opening(answer.plaintext)
            for answer in answers
        ]

    def _new_key(self, made_for: tuple[str, str, Context], timeout: float | None) -> _Key:
        cluster, region, context = made_for
        asked_at = moment()
        made = self._client.generate_data_key(cluster, region, context=context, timeout=timeout)
        until = asked_at.after(made.max_cache_age.total_seconds())
        return _Key(key_of(made.plaintext), made.wrapped_key, made_for, asked_at, until)
