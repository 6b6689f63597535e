"""Streams of an envelope: the calls that their headers take."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from functools import partial

from keyfold.arguments import wrong_type
from keyfold.envelope import streams
from keyfold.envelope.header import Readable, Writable, framed, read_header, write_all
from keyfold.envelope.message import STREAM, Kind, Message
from keyfold.envelope.naming import Naming
from keyfold.envelope.streams import SealingStream
from keyfold.envelope.work import async_waiting
from keyfold.models.specs import Context


class AsyncStreams(ABC):
    """What an envelope does with streams, whose headers it seals and opens as messages."""

    _naming: Naming

    async def seal_stream(
        self, target: Writable, context: Context | None = None, *, timeout: float | None = None
    ) -> SealingStream:
        """Begins a stream, for data of any length, and returns what to write the data to.

        It needs the extra `files`. The data key is used once, here: the stream has a key of its
        own, which the data key seals. Close the stream, best with a block: without its end it does
        not open, and it gets none if the block raises.

        Args:
            target: A file, a pipe, or whatever else has a `write`. It gets the stream's header
                now. What it raises comes through as it is.
            context: As in `seal`.
            timeout: See the class.

        Raises:
            ArgumentTypeError: The target has no `write`, or the context is not a mapping of texts.
            ExtraMissingError: The extra is not installed.
            InvalidContextError: The context is out of bounds, or disagrees with the envelope's.
        """
        with self._naming:
            if not callable(getattr(target, "write", None)):
                raise wrong_type("target", "a file to write to", target)
            streams.tink()
            key = os.urandom(streams.KEY_SIZE)
            header, aad = await self._sealed(STREAM, key, context, timeout)
        await async_waiting(partial(write_all, target, framed(header)))
        return SealingStream(key, aad, target)

    async def open_stream(
        self, source: Readable, context: Context | None = None, *, timeout: float | None = None
    ) -> io.BufferedReader:
        """Checks the header of a stream, and returns what to read the data from.

        It needs the extra `files`. Each byte that comes out was checked, and that it is in its
        place. Only when a read returns no bytes, the stream is complete: keep what came before
        apart until then. A read of a stream that was cut or changed raises MessageCorruptError.

        Args:
            source: A file, a pipe, or whatever else has a `read`, at the stream's begin. What it
                raises comes through as it is.
            context: As in `open`.
            timeout: See the class.

        Raises:
            ArgumentTypeError: The source has no `read`, or the context is not a mapping of texts.
            ExtraMissingError: The extra is not installed.
            MessageContextError: The stream does not have the pairs, or not the envelope's.
            MessageInvalidError: It is not a stream, or its header was changed.
            InvalidInputError: Its wrapped key is not of this cluster, or was changed; the reason
                is the server's.
        """
        with self._naming:
            streams.tink()
            header = await self._header(source)
            parts = self._demanded(STREAM, header, context)
            key = await self._unsealed(parts, timeout)
        return streams.opening(key, self._bound_to(parts), source, self._naming)

    async def rekey_header(self, source: Readable, *, timeout: float | None = None) -> bytes:
        """Reads the header of a stream, and returns it with its wrapped key moved, as in `rekey`.

        Write it in the place of the old one, and behind it the rest of the source as it is. It is
        the same header if the newest generation had wrapped its key already.

        Args:
            source: As in `open_stream`.
            timeout: See the class.

        Raises:
            ArgumentTypeError: The source has no `read`.
            MessageInvalidError: It is not a stream, or does not have the envelope's pairs.
            InvalidInputError: Its wrapped key is not of this cluster, or was changed.
        """
        with self._naming:
            header = await self._header(source)
            return framed(await self._rekeyed(self._parsed(STREAM, header), timeout))

    async def _header(self, source: Readable) -> bytes:
        if not callable(getattr(source, "read", None)):
            raise wrong_type("source", "a file to read from", source)
        return await async_waiting(partial(read_header, source))

    @abstractmethod
    async def _sealed(
        self, kind: Kind, data: bytes, context: Context | None, timeout: float | None
    ) -> tuple[bytes, bytes]:
        """Returns a message of a kind, and what it is bound to."""

    @abstractmethod
    async def _unsealed(self, parts: Message, timeout: float | None) -> bytes:
        """Returns the data of a message of any kind."""

    @abstractmethod
    async def _rekeyed(self, parts: Message, timeout: float | None) -> bytes:
        """Returns a message of any kind with its wrapped key under the newest generation."""

    @abstractmethod
    def _demanded(self, kind: Kind, message: bytes, context: Context | None) -> Message:
        """Returns the parts of a message that has the envelope's pairs and the caller's."""

    @abstractmethod
    def _parsed(self, kind: Kind, message: bytes) -> Message:
        """Returns the parts of a message that has the envelope's pairs."""

    @abstractmethod
    def _bound_to(self, parts: Message) -> bytes:
        """Returns what a message is bound to: its AAD."""
