"""The wrapped key: its bytes, what they are bound to, and the key that makes and opens them.

    version(1) ‖ suite(1) ‖ kek_id(16) ‖ nonce(24) ‖ ciphertext ‖ tag(16) ‖ commitment(32)

The format is for ever: callers keep these bytes beside their data for years. docs/wrapped-key.md
describes it for whoever opens one without Keyfold, tests/vectors/wrapped-key.json pins it, and a
change of anything here is a new suite or version. Bytes that are not in the blob (cluster, region
and context) are authenticated with it, so a blob moved elsewhere does not open.

Must not know where keys come from, who may use them, or how long; `Kek` is one open key.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from keyfold_server.domain.errors import (
    InvalidContextError,
    InvalidPlaintextError,
    NotAWrappedKeyError,
    UnknownKekError,
    UnsupportedWrappedKeyError,
)
from keyfold_server.domain.xaes import COMMITMENT_SIZE, NONCE_SIZE, TAG_SIZE, CommittingKey

KEK_ID_SIZE: Final = 16
"""Bytes of the random id that names one generation of one cluster-region."""

MAX_PLAINTEXT: Final = 4_096
"""Bytes of the largest key that Keyfold wraps."""

MAX_CONTEXT_PAIRS: Final = 16
"""Pairs of one context; engineering section 1."""

MAX_CONTEXT_BYTES: Final = 4_096
"""Bytes of a context's keys and values together, in UTF-8; engineering section 1."""

_VERSION_AND_SUITE: Final = b"\x01\x01"
_LABEL: Final = b"CMK1"
_NONCE_AT: Final = len(_VERSION_AND_SUITE) + KEK_ID_SIZE
_SEALED_AT: Final = _NONCE_AT + NONCE_SIZE

OVERHEAD: Final = _SEALED_AT + TAG_SIZE + COMMITMENT_SIZE
"""Bytes by which a wrapped key is longer than the plaintext: 90."""

EMPTY_CONTEXT: Final = b"\x00\x00"
"""The encoding of no context at all."""

_u16: Final = struct.Struct(">H").pack

Random = Callable[[int], bytes]
"""Returns that many bytes of a cryptographic random source."""


class WrappedKey(NamedTuple):
    """The parts of a wrapped key that is well formed; whether it opens, only its KEK tells.

    Attributes:
        kek_id: 16 bytes: which KEK opens it.
        nonce: 24 bytes.
        sealed: Ciphertext, tag and commitment.
    """

    kek_id: bytes
    nonce: bytes
    sealed: bytes

    def __repr__(self) -> str:
        return f"WrappedKey(kek_id={self.kek_id.hex()}, {len(self.sealed)} bytes sealed)"


Opener = Callable[[WrappedKey, bytes], bytes]
"""Opens one wrapped key of a batch: as `Kek.open`."""


def encode_context(context: Mapping[str, str]) -> bytes:
    """Returns the one encoding of a context: pairs in the order of their keys' UTF-8 bytes.

    A count, then each key and value behind its length, all lengths 16 bits big-endian: no two
    contexts share an encoding. Text is taken as it stands, without Unicode normalisation, since a
    caller's next release must produce the same bytes.

    Raises:
        InvalidContextError: More than 16 pairs, too many bytes, an empty key, or text that UTF-8
            cannot express.
    """
    if not context:
        return EMPTY_CONTEXT
    if len(context) > MAX_CONTEXT_PAIRS:
        raise _bad_context(f"has {len(context)} pairs; send at most {MAX_CONTEXT_PAIRS}")
    parts = [_u16(len(context))]
    room = MAX_CONTEXT_BYTES
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
        raise _bad_context("has a lone surrogate; send text that UTF-8 can express") from error
    if room < 0:
        raise _bad_context(
            f"is too large; keep keys and values within {MAX_CONTEXT_BYTES} bytes together"
        )
    raise _bad_context("has an empty key; give each pair a key")


def _bad_context(fault: str) -> InvalidContextError:
    return InvalidContextError(f"the context {fault}", field="context")


def check_plaintext(plaintext: bytes) -> None:
    """Refuses a key that cannot be wrapped.

    Raises:
        InvalidPlaintextError: It is empty or larger than 4,096 bytes.
    """
    if not 0 < len(plaintext) <= MAX_PLAINTEXT:
        raise InvalidPlaintextError(
            f"the plaintext has {len(plaintext)} bytes; wrap a key of 1 to {MAX_PLAINTEXT}",
            field="plaintext",
        )


def parse(blob: bytes) -> WrappedKey:
    """Returns the parts of a wrapped key; nothing is authenticated yet.

    Raises:
        NotAWrappedKeyError: It is empty, or shorter or longer than any wrapped key.
        UnsupportedWrappedKeyError: Another version or suite.
    """
    if not OVERHEAD < len(blob) <= OVERHEAD + MAX_PLAINTEXT:
        raise NotAWrappedKeyError(
            f"{len(blob)} bytes are not a wrapped key, which has {OVERHEAD + 1} to "
            f"{OVERHEAD + MAX_PLAINTEXT}; look for truncation or a text encoding",
            field="wrapped_key",
        )
    if not blob.startswith(_VERSION_AND_SUITE):
        raise UnsupportedWrappedKeyError(
            f"the wrapped key begins with version {blob[0]} and suite {blob[1]}, and this release "
            "knows version 1 and suite 1; unwrap it with a newer one, or look for a text encoding",
            field="wrapped_key",
        )
    return WrappedKey(blob[2:_NONCE_AT], blob[_NONCE_AT:_SEALED_AT], blob[_SEALED_AT:])


class Kek:
    """An open key encryption key of one generation of one cluster-region.

    It belongs to one thread, like the cipher inside. Dropping it drops the key.

    Attributes:
        kek_id: 16 random bytes; they stand in every wrapped key.
        cluster: Name of the cluster, authenticated with every wrapped key.
        region: Name of the region, likewise.
        generation: 1, 2, 3 …; not authenticated, since `kek_id` says the same.

    Args:
        key: The 32 bytes of the key; wiped before this returns, and when it raises.

    Raises:
        ValueError: `key` or `kek_id` has another length.
    """

    __slots__ = ("_aad", "_head", "_key", "cluster", "generation", "kek_id", "region")

    def __init__(
        self, kek_id: bytes, cluster: str, region: str, generation: int, key: bytearray
    ) -> None:
        self._key = CommittingKey(key)
        if len(kek_id) != KEK_ID_SIZE:
            raise ValueError(f"a kek_id has {KEK_ID_SIZE} bytes")
        self.kek_id = kek_id
        self.cluster = cluster
        self.region = region
        self.generation = generation
        self._head = _VERSION_AND_SUITE + kek_id
        names = [_u16(len(name)) + name for name in (cluster.encode(), region.encode())]
        # The version is not in the AAD and need not be: it says how to read the rest, and no
        # other version may ever use this label.
        self._aad = b"".join((_LABEL, _VERSION_AND_SUITE[1:], kek_id, *names))

    def __repr__(self) -> str:
        return (
            f"Kek(kek_id={self.kek_id.hex()}, cluster={self.cluster!r}, "
            f"region={self.region!r}, generation={self.generation})"
        )

    def seal(self, plaintext: bytes, context: bytes, random: Random = os.urandom) -> bytes:
        """Returns a wrapped key, 90 bytes longer than the plaintext.

        Args:
            plaintext: 1 to 4,096 bytes.
            context: What `encode_context` returned.
            random: Source of the nonce.

        Raises:
            InvalidPlaintextError: The plaintext is empty or larger than 4,096 bytes.
        """
        if not 0 < len(plaintext) <= MAX_PLAINTEXT:  # before the call, which costs more
            check_plaintext(plaintext)
        nonce = random(NONCE_SIZE)
        return self._head + nonce + self._key.seal(nonce, plaintext, self._aad + context)

    def seal_batch(
        self, items: Sequence[tuple[bytes, bytes]], random: Random = os.urandom
    ) -> list[bytes]:
        """Returns wrapped keys in the items' order; each opens by itself like any other.

        Their nonces share their first 12 bytes, which shows that they were wrapped together, and
        count up in the other 12; `CommittingKey.seal_batch` says why that is safe.

        Args:
            items: Plaintext and encoded context of each.
            random: Source of the first nonce, asked once.

        Raises:
            InvalidPlaintextError: One is empty or larger than 4,096 bytes. Nothing was wrapped;
                `check_plaintext` finds such an item beforehand, so that it fails alone.
        """
        if not items:
            return []
        aad, head = self._aad, self._head
        bound = []
        for plaintext, context in items:
            if not 0 < len(plaintext) <= MAX_PLAINTEXT:
                check_plaintext(plaintext)
            bound.append((plaintext, aad + context))
        sealed = self._key.seal_batch(random(NONCE_SIZE), bound)
        return [head + nonce + body for nonce, body in sealed]

    def open(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """Returns the plaintext of a wrapped key.

        Args:
            wrapped: What `parse` returned.
            context: What `encode_context` returned for the caller's context.

        Raises:
            UnknownKekError: It names another KEK than this one.
            WrappedKeyCorruptError: The nonce or the commitment was changed, or the KEK that made
                it had other bytes.
            ContextMismatchError: Another context, cluster or region, or a changed ciphertext or
                tag; nothing can tell which.
        """
        if wrapped.kek_id != self.kek_id:
            raise self._other_kek()
        return self._key.open(wrapped.nonce, wrapped.sealed, self._aad + context)

    def opener(self) -> Opener:
        """Returns an `open` for one call's many wrapped keys; those of one batch share its work.

        It holds derived keys: drop it with the call.
        """
        open_sealed, kek_id, aad = self._key.opener(), self.kek_id, self._aad

        def open_wrapped(wrapped: WrappedKey, context: bytes) -> bytes:
            if wrapped.kek_id != kek_id:
                raise self._other_kek()
            return open_sealed(wrapped.nonce, wrapped.sealed, aad + context)

        return open_wrapped

    def _other_kek(self) -> UnknownKekError:
        # Compared, because the AAD is built from this KEK's own id, not from the blob's: without
        # this a changed id would go unnoticed wherever a caller looked up the wrong KEK.
        return UnknownKekError(
            "the wrapped key names another key encryption key; check the cluster's name",
            field="wrapped_key",
        )
