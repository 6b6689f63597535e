"""Calls about one key each, which may travel with others as a batch.

Such a call builds its request only if it goes alone. That takes as much time as all else that a
client does for a call that travels with others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import Final

from google.protobuf.message import Message

from keyfold.calls.call import KEYS, Call, Plane, Response, Result
from keyfold.models.results import Rewrapped, Unwrapped, Wrapped
from keyfold.models.specs import Context, Destination
from keyfold.v1 import key_management_service_pb2 as api

_KEK: Final = slice(0, 18)
"""Where a wrapped key names the KEK that opens it: after version and suite."""

_FRAMING: Final = 32
"""Most bytes that protobuf puts around the names and the key of a call."""

_PAIR_FRAMING: Final = 12
"""Most bytes that protobuf puts around a pair of a context."""


class KeyCall(Call[Response, Result]):
    """A call about one key.

    Attributes:
        cluster: The cluster's name.
        key: The plaintext to wrap, or the wrapped key.
        context: The context of the key; a copy.
        size: Most bytes of its request.
    """

    __slots__ = ("_built", "cluster", "context", "key", "size")

    def __init__(
        self,
        method: str,
        read: Callable[[Response], Result],
        cluster: str,
        region: str,
        key: bytes,
        context: Context | None,
    ) -> None:
        """Takes the parts of a call; the region is empty where it has none.

        Raises:
            ValueError: Protobuf does not take a text.
        """
        self.method = method
        self.read = read
        self.plane = Plane.DATA
        self.request_id = None
        self.service = KEYS
        self.cluster = cluster
        self.key = key
        self.context = context = dict(context) if context else {}
        text = "".join((cluster, region, *context, *context.values()))
        self._built: Message | None = None
        if text.isascii():
            self.size = len(text) + len(key) + len(context) * _PAIR_FRAMING + _FRAMING
        else:
            # Half of a surrogate pair is refused here and not when a batch is built.
            self.size = self.request.ByteSize()

    @property
    def request(self) -> Message:
        """The request message."""
        if self._built is None:
            self._built = self._build()
        return self._built

    @property
    @abstractmethod
    def lane(self) -> Hashable:
        """What calls have in common that may travel together, beside their caller."""
        ...

    @abstractmethod
    def _build(self) -> Message: ...


class WrapCall(KeyCall[api.WrapResponse, Wrapped]):
    """A Wrap call.

    Attributes:
        region: The region's name.
    """

    __slots__ = ("region",)

    def __init__(self, cluster: str, region: str, key: bytes, context: Context | None) -> None:
        """Takes the parts of a call."""
        self.region = region
        super().__init__("Wrap", Wrapped.from_message, cluster, region, key, context)

    @property
    def lane(self) -> Hashable:
        """One KEK: that of a region."""
        return "Wrap", self.cluster, self.region

    def _build(self) -> Message:
        return api.WrapRequest(
            cluster=self.cluster, region=self.region, plaintext=self.key, context=self.context
        )


class UnwrapCall(KeyCall[api.UnwrapResponse, Unwrapped]):
    """An Unwrap call."""

    __slots__ = ()

    def __init__(self, cluster: str, key: bytes, context: Context | None) -> None:
        """Takes the parts of a call."""
        super().__init__("Unwrap", Unwrapped.from_message, cluster, "", key, context)

    @property
    def lane(self) -> Hashable:
        """One KEK: the one that the wrapped key names."""
        return "Unwrap", self.cluster, self.key[_KEK]

    def _build(self) -> Message:
        return api.UnwrapRequest(cluster=self.cluster, wrapped_key=self.key, context=self.context)


class RewrapCall(KeyCall[api.RewrapResponse, Rewrapped]):
    """A Rewrap call.

    Attributes:
        destination: Where the key goes; None if it stays where it is.
    """

    __slots__ = ("destination",)

    def __init__(
        self, cluster: str, key: bytes, context: Context | None, destination: Destination | None
    ) -> None:
        """Takes the parts of a call."""
        self.destination = None if destination is None else destination.to_message()
        super().__init__("Rewrap", Rewrapped.from_message, cluster, "", key, context)
        if self.destination is not None:
            self.size += self.destination.ByteSize() + _FRAMING

    @property
    def lane(self) -> Hashable:
        """Two KEKs: the one that the wrapped key names, and the one where it goes."""
        to = self.destination
        where = None if to is None else (to.cluster, to.region)
        return "Rewrap", self.cluster, self.key[_KEK], where

    def _build(self) -> Message:
        return api.RewrapRequest(
            cluster=self.cluster,
            wrapped_key=self.key,
            context=self.context,
            destination=self.destination,
        )
