"""The one encoding of a context, in wrapped keys and in messages.

    number of pairs ‖ for each pair: length of the key ‖ key ‖ length of the value ‖ value

Numbers have 16 bits, big-endian. The pairs stand in the order of their keys' UTF-8 bytes. So a
context has one encoding, and an encoding is of one context.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

MAX_PAIRS: Final = 16
"""Most pairs of one context."""

MAX_BYTES: Final = 4_096
"""Most bytes of a context's keys and values together, in UTF-8."""

EMPTY: Final = b"\x00\x00"
"""The encoding of an empty context."""

_U16: Final = struct.Struct(">H")
_u16: Final = _U16.pack


class ContextError(ValueError):
    """It is not a context. The text goes on after "the context"."""


class EncodingError(ValueError):
    """The bytes are not the encoding of a context."""


def encode(context: Mapping[str, str]) -> bytes:
    """Returns the encoding of a context.

    Text is not normalised, so that a caller's next release produces the same bytes.

    Raises:
        ContextError: More than 16 pairs, too many bytes, an empty key, or text that UTF-8 cannot
            express.
    """
    if not context:
        return EMPTY
    if len(context) > MAX_PAIRS:
        raise ContextError(f"has {len(context)} pairs; send at most {MAX_PAIRS}")
    parts = [_u16(len(context))]
    room = MAX_BYTES
    try:
        # Python compares text by code point, and UTF-8 keeps that order in its bytes.
        for name in sorted(context):
            key, value = name.encode(), context[name].encode()
            room -= len(key) + len(value)
            if room < 0 or not key:
                break
            parts += (_u16(len(key)), key, _u16(len(value)), value)
        else:
            return b"".join(parts)
    except UnicodeEncodeError as error:
        raise ContextError("has a lone surrogate; send text that UTF-8 can express") from error
    if room < 0:
        raise ContextError(f"is too large; keep keys and values within {MAX_BYTES} bytes together")
    raise ContextError("has an empty key; give each pair a key")


def decode(buffer: memoryview, at: int) -> tuple[dict[str, str], int]:
    """Reads a context that stands in a buffer, and returns it with the place behind it.

    Raises:
        EncodingError: `encode` did not make these bytes, or they go on beyond the buffer.
    """
    try:
        (count,) = _U16.unpack_from(buffer, at)
        if count > MAX_PAIRS:
            raise EncodingError
        start, at = at, at + _U16.size
        context: dict[str, str] = {}
        for _ in range(count):
            key, at = _text(buffer, at)
            context[key], at = _text(buffer, at)
        # Encoding it again checks everything else: order, repeated and empty keys, and the size.
        if encode(context) != buffer[start:at]:
            raise EncodingError
    except (ValueError, struct.error) as error:
        raise EncodingError("not the encoding of a context") from error
    return context, at


def _text(buffer: memoryview, at: int) -> tuple[str, int]:
    (size,) = _U16.unpack_from(buffer, at)
    start = at + _U16.size
    end = start + size
    if end > len(buffer):
        raise EncodingError
    return str(buffer[start:end], "utf-8"), end
