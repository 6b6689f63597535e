"""The header of a stream: a message that holds the stream's key, in front of what Tink makes.

    "KFS" ‖ version(1) ‖ suite(1) ‖ u16 length of the rest ‖ the rest of the message

The length lets a reader take the header from a pipe, and nothing behind it. It is not in the AAD,
because the wrapped key may become longer or shorter; a wrong one leaves no well-formed message.
"""

from __future__ import annotations

import io
import struct
from typing import Final, Protocol

from keyfold.envelope import message as form
from keyfold.envelope.message import PREFIX_SIZE, STREAM
from keyfold.models.specs import Buffer

_U16: Final = struct.Struct(">H")
_BEGIN: Final = PREFIX_SIZE + _U16.size


class Readable(Protocol):
    """Anything to read bytes from: a file, a pipe, the body of a response."""

    def read(self, size: int, /) -> bytes | None:
        """Returns at most so many bytes, and none at the end only."""
        ...


class Writable(Protocol):
    """Anything to write bytes to."""

    def write(self, data: Buffer, /) -> object:
        """Takes bytes; returns how many, or None for all."""
        ...


def framed(message: bytes) -> bytes:
    """Returns a header as it stands in its stream."""
    rest = message[PREFIX_SIZE:]
    return message[:PREFIX_SIZE] + _U16.pack(len(rest)) + rest


def read_header(source: Readable) -> bytes:
    """Reads a header, and nothing behind it. Returns it as a message, without authenticating it.

    Raises:
        NotAMessageError: A stream does not begin here, or it was cut in its header.
        UnsupportedMessageError: It has another version or suite.
    """
    begin = _read(source, _BEGIN)
    if not begin:
        raise form.not_a_message(STREAM, "there are none; look at what should have written them")
    form.check_prefix(STREAM, begin)
    (size,) = _U16.unpack(begin[PREFIX_SIZE:].rjust(_U16.size, b"\0"))
    rest = _read(source, size)
    if len(begin) < _BEGIN or len(rest) < size:
        raise form.not_a_message(STREAM, "they end within its header; look for truncation")
    return begin[:PREFIX_SIZE] + rest


def _read(source: Readable, size: int) -> bytes:
    """Reads so many bytes, or fewer at the end."""
    found = bytearray()
    while len(found) < size and (part := read_some(source, size - len(found))):
        found += part
    return bytes(found)


def read_some(source: Readable, size: int) -> bytes:
    """Reads at most so many bytes, and none at the end only.

    Raises:
        BlockingIOError: The source does not wait for its bytes.
    """
    part = source.read(size)
    if part is None:
        raise BlockingIOError("the source of a stream must wait until it has bytes")
    return bytes(part)


def write_all(target: Writable, data: bytes) -> None:
    """Writes bytes, of which one call may take a part.

    Raises:
        BlockingIOError: The target does not wait until it can take them.
    """
    view = memoryview(data)
    while view:
        taken = target.write(view)
        if isinstance(taken, int):
            view = view[taken:]
        elif isinstance(target, io.RawIOBase):
            raise BlockingIOError("the target of a stream must wait until it can take bytes")
        else:
            return
