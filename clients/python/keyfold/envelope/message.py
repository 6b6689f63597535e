"""The bytes of a message, and of the header of a stream, which is one of another kind.

    "KFM" ‖ version(1) ‖ suite(1) ‖ lp(wrapped key) ‖ key's context ‖ message's context
    ‖ nonce(24) ‖ ciphertext ‖ tag(16) ‖ commitment(32)

The additional authenticated data (AAD) is what stands before the nonce, with the cluster's name in
the place of the wrapped key. So nobody can change, move or mix parts of messages, and still the
wrapped key can be replaced without touching the data: another data key's would fail the commitment.

A header begins with "KFS", also in its AAD, so that neither passes for the other: whoever may
choose the data of a message could choose the key of a stream. `header` says how it stands there.

The format never changes, since callers keep messages for years. docs/envelope.md and docs/files.md
describe it for readers who open messages without Keyfold; tests/vectors/envelope.json and
stream.json pin it. This module knows no key.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from keyfold.arguments import check_of
from keyfold.crypto import context as encoding
from keyfold.errors import (
    DataTooLargeError,
    InvalidContextError,
    InvalidNameError,
    NotAMessageError,
    UnsupportedMessageError,
)
from keyfold.models.specs import Context

MAX_DATA: Final = 1 << 30
"""Most bytes of data in one message: 1 GiB, within what AES-GCM may encrypt at once."""

NONCE_SIZE: Final = 24
"""Bytes of a nonce."""

PREFIX_SIZE: Final = 5
"""Bytes of magic, version and suite."""

_VERSION_AND_SUITE: Final = b"\x01\x01"
_MAX_WRAPPED_KEY: Final = 4_186
_MAX_NAME: Final = 128

_COMMITMENT_SIZE: Final = 32
_LEAST_SEALED: Final = NONCE_SIZE + 16 + _COMMITMENT_SIZE

_CHECK: Final = check_of(Context)

_U16: Final = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of message.

    Attributes:
        magic: The 3 bytes with which it begins.
        name: What messages for people call it.
        least: Fewest bytes of data.
        most: Most bytes of data.
    """

    magic: bytes
    name: str
    least: int
    most: int

    @property
    def prefix(self) -> bytes:
        """What stands before the wrapped key's length."""
        return self.magic + _VERSION_AND_SUITE


MESSAGE: Final = Kind(b"KFM", "message", 0, MAX_DATA)
"""A message of its own."""

STREAM: Final = Kind(b"KFS", "stream", 32, 32)
"""The header of a stream. Its data is the stream's key."""


class Message(NamedTuple):
    """The parts of a well-formed message. Only its data key can tell whether it opens.

    Attributes:
        kind: The kind of message.
        wrapped_key: The wrapped data key.
        key_context: The context that the data key was wrapped with.
        context: The pairs that this message has besides; none has a key of `key_context`.
        bound: Both contexts as they stand in the message.
        nonce: The 24 bytes of the nonce.
        sealed: Ciphertext and tag.
        commitment: The 32 bytes of the commitment.
        rest: What stands behind the wrapped key.
    """

    kind: Kind
    wrapped_key: bytes
    key_context: Mapping[str, str]
    context: Mapping[str, str]
    bound: bytes
    nonce: bytes
    sealed: memoryview
    commitment: bytes
    rest: memoryview


def check_size(data: bytes) -> None:
    """Refuses data that is too large for one message.

    Raises:
        DataTooLargeError: It has more than 1 GiB.
    """
    if len(data) > MAX_DATA:
        raise DataTooLargeError(
            f"the data has {len(data)} bytes, and a message holds at most {MAX_DATA}; divide it",
            code="INVALID_ARGUMENT",
        )


def check_context(context: Context) -> None:
    """Refuses what is not a mapping of strings to strings.

    Raises:
        ArgumentTypeError: It is something else.
    """
    _CHECK(context, "context")


def encode_context(context: Context) -> bytes:
    """Returns the encoding of a context.

    Raises:
        ArgumentTypeError: It is not a mapping of strings to strings.
        InvalidContextError: It is out of bounds.
    """
    check_context(context)
    try:
        return encoding.encode(context)
    except encoding.ContextError as fault:
        raise _bad_context(str(fault)) from fault


def _bad_context(fault: str) -> InvalidContextError:
    return InvalidContextError(f"the context {fault}", code="INVALID_ARGUMENT")


def encode_own_context(context: Context, key_context: Context) -> bytes:
    """Returns the encoding of the pairs that a message has besides its key's.

    Raises:
        ArgumentTypeError: As `encode_context`.
        InvalidContextError: As `encode_context`, or a pair has another value than the key's.
    """
    if context == {}:
        return encoding.EMPTY
    encoded = encode_context(context)
    if context.keys().isdisjoint(key_context):
        return encoded
    for name, value in context.items():
        if key_context.get(name, value) != value:
            raise _bad_context(
                f"has another value of {name!r} than the envelope's context; use another envelope"
            )
    return encode_context({n: value for n, value in context.items() if n not in key_context})


def bound_to(kind: Kind, cluster: str) -> bytes:
    """Returns the AAD of all messages of a kind and cluster, up to the contexts.

    Raises:
        InvalidNameError: The name does not have 1 to 128 ASCII characters.
    """
    name = cluster.encode() if cluster.isascii() else b""
    if not 0 < len(name) <= _MAX_NAME:
        raise InvalidNameError(
            f"a cluster's name has 1 to {_MAX_NAME} ASCII characters",
            code="INVALID_ARGUMENT",
        )
    return kind.prefix + _U16.pack(len(name)) + name


def head(kind: Kind, wrapped_key: bytes) -> bytes:
    """Returns the begin of a message, up to the contexts."""
    return kind.prefix + _U16.pack(len(wrapped_key)) + wrapped_key


def moved(message: Message, wrapped_key: bytes) -> bytes:
    """Returns a message with another wrapped key, and all else as it was."""
    return b"".join((head(message.kind, wrapped_key), message.rest))


def check_prefix(kind: Kind, begin: bytes) -> None:
    """Refuses what does not begin as a message of a kind.

    Args:
        kind: The kind.
        begin: The first 5 bytes, or more.

    Raises:
        NotAMessageError: An envelope did not seal it as such, or it was cut.
        UnsupportedMessageError: It has another version or suite.
    """
    if begin.startswith(kind.prefix):
        return
    if not begin.startswith(kind.magic) or len(begin) < PREFIX_SIZE:
        raise not_a_message(kind, "they begin otherwise; look for a text encoding")
    raise UnsupportedMessageError(
        f"the {kind.name} begins with version {begin[3]} and suite {begin[4]}, and this release "
        "knows version 1 and suite 1; open it with a newer release",
        code="INVALID_ARGUMENT",
    )


def parse(kind: Kind, message: bytes) -> Message:
    """Returns the parts of a message, without authenticating it.

    Raises:
        NotAMessageError: An envelope did not seal it as such, or it was cut.
        UnsupportedMessageError: It has another version or suite.
    """
    check_prefix(kind, message)
    view = memoryview(message)
    key_at = PREFIX_SIZE + _U16.size
    # A cut length has fewer bytes, and is then smaller than the real one, never larger.
    bound_at = key_at + int.from_bytes(view[PREFIX_SIZE:key_at], "big")
    if not key_at < bound_at <= key_at + _MAX_WRAPPED_KEY:
        raise not_a_message(kind, "they do not hold a wrapped key")
    try:
        key_context, at = encoding.decode(view, bound_at)
        context, nonce_at = encoding.decode(view, at)
    except encoding.EncodingError as error:
        raise not_a_message(kind, "they do not hold a context") from error
    # Otherwise it would depend on the reader which value counts.
    if not context.keys().isdisjoint(key_context):
        raise not_a_message(kind, "their two contexts have a key in common")
    if not kind.least <= len(view) - nonce_at - _LEAST_SEALED <= kind.most:
        raise not_a_message(kind, "what is sealed is too short or too long; look for truncation")
    sealed_at, commitment_at = nonce_at + NONCE_SIZE, len(view) - _COMMITMENT_SIZE
    return Message(
        kind,
        message[key_at:bound_at],
        key_context,
        context,
        message[bound_at:nonce_at],
        message[nonce_at:sealed_at],
        view[sealed_at:commitment_at],
        message[commitment_at:],
        view[bound_at:],
    )


def not_a_message(kind: Kind, fault: str) -> NotAMessageError:
    """Returns an error about bytes that are not a message of a kind. Its text ends with `fault`."""
    return NotAMessageError(f"the bytes are not a {kind.name}: {fault}", code="INVALID_ARGUMENT")
