"""Sealing data into messages, opening them, and moving them to newer keys."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from types import MappingProxyType
from typing import Final

from keyfold.aio.data_plane import DataPlane
from keyfold.arguments import checked, taken
from keyfold.envelope import message as form
from keyfold.envelope.aio.keeper import AsyncKeeper, AsyncKeySource
from keyfold.envelope.aio.streams import AsyncStreams
from keyfold.envelope.cipher import open_message, seal
from keyfold.envelope.keys import Bounds, OpeningKey
from keyfold.envelope.message import MESSAGE, STREAM, Kind
from keyfold.envelope.naming import Naming
from keyfold.envelope.work import async_work
from keyfold.errors import KeyfoldError, MessageContextError
from keyfold.models.results import Rewrapped
from keyfold.models.specs import Buffer, Context, RewrapItem, as_bytes

_NO_CONTEXT: Final[Context] = MappingProxyType({})

_ASKED: Final = Iterable[tuple[Buffer, Context | None]]

_Result = bytes | KeyfoldError
_Name = tuple[bytes, frozenset[tuple[str, str]]]
"""What tells one data key from another: its wrapped key, and the context that it opens with."""


class AsyncEnvelope(AsyncStreams):
    """Seals data into messages under data keys of one cluster, and opens that cluster's messages.

    A message carries its wrapped data key and its context, so that opening takes nothing else. One
    data key seals many messages: within its bounds, sealing makes no call. Opening asks the server
    each time. It works on the client's event loop.

    Args:
        client: The client that makes and unwraps data keys.
        cluster: The cluster whose keys seal. Messages of other clusters do not open.
        region: The region whose keys seal. Messages of the cluster's other regions open, too.
        context: Names and values that the data keys are wrapped with, such as `{"table": "cards"}`;
            not secret. The server checks them at each unwrapping, and its policy can narrow them.
            Only messages whose data keys have all these pairs open.
        cache: What keeps data keys: `AsyncKeyCache`, which several envelopes may share. By
            default the envelope keeps the newest one to seal with, and none to open with.
        max_messages: Most messages that one data key seals.
        max_bytes: Most bytes that one data key seals.
        max_age: Seconds for which one data key seals, and so the longest time for which sealing
            goes on after a revocation.

    Every method raises `KeyfoldError`: what the client's calls raise, and `MessageInvalidError`
    where the fault is the message's. `timeout`, in seconds, is the deadline of the one call that
    a method may make; None means the client's.

    Raises:
        ArgumentTypeError: An argument has a type that is not taken.
        ArgumentValueError: A bound is too small.
        InvalidContextError: The context is out of bounds.
        InvalidNameError: The cluster's name is out of bounds.

    Example:
        >>> envelope = keyfold.AsyncEnvelope(client, "prod", "eu", context={"table": "cards"})
        >>> message = await envelope.seal(b"4111", {"row": "17"})
        >>> await envelope.open(message, {"row": "17"})
        b'4111'
    """

    @checked
    def __init__(
        self,
        client: DataPlane,
        cluster: str,
        region: str,
        *,
        context: Context | None = None,
        cache: AsyncKeySource | None = None,
        max_messages: int = 1_000_000,
        max_bytes: int = 1 << 36,
        max_age: float = 60.0,
    ) -> None:
        given = _NO_CONTEXT if context is None else context
        self._bound_key = form.encode_context(given)
        self._context = dict(given)
        self._aad = {kind: form.bound_to(kind, cluster) for kind in (MESSAGE, STREAM)}
        self._client = client
        self._cluster = cluster
        self._naming = Naming(cluster)
        self._region = region
        self._bounds = Bounds(max_messages, max_bytes, max_age)
        self._keys: AsyncKeySource = AsyncKeeper(client) if cache is None else cache

    async def seal(
        self, data: Buffer, context: Context | None = None, *, timeout: float | None = None
    ) -> bytes:
        """Returns a message that holds the data: about 200 bytes more, and the context's.

        Args:
            data: Up to 1 GiB.
            context: Pairs that this message has besides the envelope's, such as `{"row": "17"}`;
                up to 16 pairs and 4,096 bytes. They stand readable in the message, which does not
                open if somebody changes them.
            timeout: See the class.

        Raises:
            ArgumentTypeError: The data is not bytes, or the context not a mapping of texts.
            DataTooLargeError: The data has more than 1 GiB.
            InvalidContextError: The context is out of bounds, or disagrees with the envelope's.
        """
        with self._naming:
            text = as_bytes(data, "data")
            form.check_size(text)
            message, _ = await self._sealed(MESSAGE, text, context, timeout)
            return message

    async def open(
        self, message: Buffer, context: Context | None = None, *, timeout: float | None = None
    ) -> bytes:
        """Returns the data of a message.

        Args:
            message: The message as `seal` or `rekey` returned it.
            context: Pairs that the message must have. Pass what you know about it, such as the row
                that you read it from: only then does another row's message not open here.
            timeout: See the class.

        Raises:
            ArgumentTypeError: The message is not bytes, or the context not a mapping of texts.
            MessageContextError: The message does not have the pairs, or not the envelope's.
            MessageInvalidError: It is not a message, or was changed, or has another's parts.
            InvalidInputError: Its wrapped key is not of this cluster, or was changed; the reason
                is the server's.
        """
        with self._naming:
            parts = self._demanded(MESSAGE, as_bytes(message, "message"), context)
            return await self._unsealed(parts, timeout)

    async def open_many(
        self,
        messages: Iterable[tuple[Buffer, Context | None]],
        *,
        timeout: float | None = None,
    ) -> list[bytes | KeyfoldError]:
        """Returns the data of many messages, or an error for each that does not open.

        Opening 1,000 messages takes one call at most, however many data keys they have; from a
        cache, it takes none. Above that it takes one call for each 1,000 data keys.

        Args:
            messages: The messages, each with the pairs that it must have or None, as in `open`.
            timeout: Deadline of each call, in seconds. A call that fails does not raise: its error
                is the result of each of its messages.

        Raises:
            ArgumentTypeError: They are not pairs of bytes and of a mapping of texts or None.
        """
        with self._naming:
            pairs = taken(_ASKED, messages, "messages")
        found = [self._found(message, context) for message, context in pairs]
        asked: dict[_Name, tuple[bytes, Context]] = {
            _name(parts): (parts.wrapped_key, parts.key_context)
            for parts in found
            if isinstance(parts, form.Message)
        }
        if not asked:
            return [parts for parts in found if isinstance(parts, KeyfoldError)]
        borrowing = self._keys.opening_keys(self._cluster, asked.values(), timeout=timeout)
        with self._naming:
            async with borrowing as lent:
                keys = dict(zip(asked, lent, strict=True))
                return [
                    parts
                    if isinstance(parts, KeyfoldError)
                    else await self._result(keys[_name(parts)], parts)
                    for parts in found
                ]

    async def rekey(self, message: Buffer, *, timeout: float | None = None) -> bytes:
        """Moves a message's wrapped key to the newest generation, and leaves the rest as it is.

        Returns the same bytes if the newest generation had wrapped it already. The data stays
        sealed, so a message that does not open is not noticed.

        Raises:
            ArgumentTypeError: The message is not bytes.
            MessageInvalidError: It is not a message, or does not have the envelope's pairs.
            InvalidInputError: Its wrapped key is not of this cluster, or was changed.
        """
        with self._naming:
            return await self._rekeyed(self._parsed(MESSAGE, as_bytes(message, "message")), timeout)

    async def rekey_many(
        self, messages: Iterable[Buffer], *, timeout: float | None = None
    ) -> list[bytes | KeyfoldError]:
        """Moves many messages as `rekey` does, in calls of up to 1,000.

        Returns a message or an error for each. `timeout` is the deadline of each call.

        Raises:
            ArgumentTypeError: They are not bytes.
        """
        with self._naming:
            given = taken(Iterable[Buffer], messages, "messages")
        found = [self._found(message, None) for message in given]
        items = [
            RewrapItem(parts.wrapped_key, parts.key_context)
            for parts in found
            if isinstance(parts, form.Message)
        ]
        moved = iter(await self._client.batch_rewrap(self._cluster, items, timeout=timeout))
        return [
            parts if isinstance(parts, KeyfoldError) else _moved(parts, next(moved))
            for parts in found
        ]

    async def _sealed(
        self, kind: Kind, data: bytes, context: Context | None, timeout: float | None
    ) -> tuple[bytes, bytes]:
        own = form.encode_own_context(_NO_CONTEXT if context is None else context, self._context)
        bound = self._bound_key + own
        aad = self._aad[kind] + bound
        async with self._keys.sealing_key(
            self._cluster,
            self._region,
            self._context,
            size=len(data),
            bounds=self._bounds,
            timeout=timeout,
        ) as key:
            head = form.head(kind, key.wrapped_key) + bound
            return await async_work(len(data), partial(seal, key.key, head, aad, data)), aad

    async def _unsealed(self, parts: form.Message, timeout: float | None) -> bytes:
        async with self._keys.opening_key(
            self._cluster, parts.wrapped_key, parts.key_context, timeout=timeout
        ) as key:
            return await self._opened(key, parts)

    async def _rekeyed(self, parts: form.Message, timeout: float | None) -> bytes:
        moved = await self._client.rewrap(
            self._cluster, parts.wrapped_key, context=parts.key_context, timeout=timeout
        )
        return form.moved(parts, moved.wrapped_key)

    async def _opened(self, key: OpeningKey, parts: form.Message) -> bytes:
        compute = partial(open_message, key.key, parts, self._bound_to(parts))
        return await async_work(len(parts.sealed), compute)

    async def _result(self, key: OpeningKey | KeyfoldError, parts: form.Message) -> _Result:
        if isinstance(key, KeyfoldError):
            return key
        try:
            return await self._opened(key, parts)
        except KeyfoldError as error:
            return self._naming.named(error)

    def _found(self, message: Buffer, context: Context | None) -> form.Message | KeyfoldError:
        try:
            return self._demanded(MESSAGE, as_bytes(message, "message"), context)
        except KeyfoldError as error:
            return self._naming.named(error)

    def _demanded(self, kind: Kind, message: bytes, context: Context | None) -> form.Message:
        parts = self._parsed(kind, message)
        if context is not None:
            form.check_context(context)
            _demand(kind, context, {**parts.key_context, **parts.context})
        return parts

    def _parsed(self, kind: Kind, message: bytes) -> form.Message:
        parts = form.parse(kind, message)
        # In the key's context, which the server vouches for. In the message's own, anybody could
        # put these pairs who may make data keys with some other context.
        _demand(kind, self._context, parts.key_context)
        return parts

    def _bound_to(self, parts: form.Message) -> bytes:
        return self._aad[parts.kind] + parts.bound


def _name(parts: form.Message) -> _Name:
    return parts.wrapped_key, frozenset(parts.key_context.items())


def _moved(parts: form.Message, answer: Rewrapped | KeyfoldError) -> _Result:
    if isinstance(answer, KeyfoldError):
        return answer
    return form.moved(parts, answer.wrapped_key)


def _demand(kind: Kind, pairs: Context, found: Context) -> None:
    for name, value in pairs.items():
        if found.get(name) != value:
            raise MessageContextError(
                f"the {kind.name} does not have the pair {name!r} that is demanded of it; check "
                "that it belongs here",
                code="INVALID_ARGUMENT",
            )
