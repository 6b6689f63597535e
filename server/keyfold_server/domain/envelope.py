"""The wrapped key: its bytes, what they are bound to, and the KEK that makes and opens them.

    version(1) ‖ suite(1) ‖ kek_id(16) ‖ nonce(24) ‖ ciphertext ‖ tag(16) ‖ commitment(32)

The format never changes, since callers keep these bytes beside their data for years. Any change
here is a new suite or version. docs/wrapped-key.md describes the format for readers who open
wrapped keys without Keyfold, and tests/vectors/wrapped-key.json pins it. Cluster, region and
context are not in the bytes but authenticated with them, so a wrapped key that is moved elsewhere
does not open.

This module must not know where keys come from, who may use them, or for how long.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from keyfold.crypto.context import ContextError, encode
from keyfold.crypto.faults import CommitmentError, TagError
from keyfold.crypto.xaes import COMMITMENT_SIZE, NONCE_SIZE, TAG_SIZE, CommittingKey
from keyfold_server.domain.errors import (
    ContextMismatchError,
    InvalidContextError,
    InvalidPlaintextError,
    KeyfoldError,
    NotAWrappedKeyError,
    UnknownKekError,
    UnsupportedWrappedKeyError,
    WrappedKeyCorruptError,
)

KEK_ID_SIZE: Final = 16
"""Bytes of the random id that identifies one generation of one cluster-region."""

MAX_PLAINTEXT: Final = 4_096
"""Bytes of the largest key that Keyfold wraps."""

_VERSION_AND_SUITE: Final = b"\x01\x01"
_LABEL: Final = b"CMK1"
_KEK_ID_AT: Final = len(_VERSION_AND_SUITE)
_NONCE_AT: Final = _KEK_ID_AT + KEK_ID_SIZE
_SEALED_AT: Final = _NONCE_AT + NONCE_SIZE

OVERHEAD: Final = _SEALED_AT + TAG_SIZE + COMMITMENT_SIZE
"""Bytes by which a wrapped key is longer than the plaintext: 90."""

_u16: Final = struct.Struct(">H").pack

Random = Callable[[int], bytes]
"""Returns a number of bytes from a cryptographic random source."""


def encode_context(context: Mapping[str, str]) -> bytes:
    """Returns the one encoding of a context: pairs in the order of their keys' UTF-8 bytes.

    It is a count, then each key and value after its length, all as 16 bits big-endian, so no two
    contexts share an encoding. Text is not normalised, so that a caller's next release produces
    the same bytes.

    Raises:
        InvalidContextError: More than 16 pairs, too many bytes, an empty key, or text that UTF-8
            cannot express.
    """
    try:
        return encode(context)
    except ContextError as fault:
        raise InvalidContextError(f"the context {fault}", field="context") from fault


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


def kek_id_of(wrapped_key: bytes) -> bytes:
    """Returns the 16 bytes that name the KEK that opens a wrapped key.

    Only this KEK can tell whether it opens. Nothing is authenticated here.

    Raises:
        NotAWrappedKeyError: It is empty, or shorter or longer than any wrapped key.
        UnsupportedWrappedKeyError: It has another version or suite.
    """
    if not OVERHEAD < len(wrapped_key) <= OVERHEAD + MAX_PLAINTEXT:
        raise NotAWrappedKeyError(
            f"{len(wrapped_key)} bytes are not a wrapped key, which has {OVERHEAD + 1} to "
            f"{OVERHEAD + MAX_PLAINTEXT}; look for truncation or a text encoding",
            field="wrapped_key",
        )
    if not wrapped_key.startswith(_VERSION_AND_SUITE):
        raise UnsupportedWrappedKeyError(
            f"the wrapped key begins with version {wrapped_key[0]} and suite {wrapped_key[1]}, and "
            "this release knows version 1 and suite 1; unwrap it with a newer release, or look for "
            "a text encoding",
            field="wrapped_key",
        )
    return wrapped_key[_KEK_ID_AT:_NONCE_AT]


class Kek:
    """An open key encryption key of one generation of one cluster-region.

    It belongs to one thread, like the cipher inside. Dropping it drops the key.

    Attributes:
        kek_id: 16 random bytes that every wrapped key contains.
        cluster: The cluster's name, authenticated with every wrapped key.
        region: The region's name, authenticated with every wrapped key.
        generation: 1, 2, 3 …; not authenticated, since `kek_id` identifies the generation.

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
        # The version need not be in the AAD: it says how to read the rest, and no other version
        # may ever use this label.
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
            context: The context as `encode_context` returned it.
            random: Returns random bytes for the nonce.

        Raises:
            InvalidPlaintextError: The plaintext is empty or larger than 4,096 bytes.
        """
        if not 0 < len(plaintext) <= MAX_PLAINTEXT:  # before the call, which costs more
            check_plaintext(plaintext)
        nonce = random(NONCE_SIZE)
        return self._head + nonce + self._key.seal(nonce, plaintext, self._aad + context)

    def seal_batch(
        self, items: Sequence[tuple[bytes, bytes]], random: Random = os.urandom
    ) -> list[bytes | KeyfoldError]:
        """Returns wrapped keys in the items' order. Each opens by itself like any other.

        Their nonces share the first 12 bytes, which shows that they were wrapped together, and
        count up in the other 12. `CommittingKey.seal_batch` says why that is safe.

        Args:
            items: The plaintext and the encoded context of each wrapped key.
            random: Returns random bytes for the first nonce; called at most once.

        Returns:
            For each item its wrapped key, or the error that `seal` would raise for it.
        """
        aad = self._aad
        bound = [
            (plaintext, aad + context)
            for plaintext, context in items
            if 0 < len(plaintext) <= MAX_PLAINTEXT
        ]
        made = self._key.seal_batch(random(NONCE_SIZE), bound, self._head) if bound else []
        results: list[bytes | KeyfoldError] = [*made]
        if len(made) < len(items):
            for place, (plaintext, _) in enumerate(items):
                try:
                    check_plaintext(plaintext)
                except InvalidPlaintextError as error:
                    results.insert(place, error)
        return results

    def open(self, wrapped_key: bytes, context: bytes) -> bytes:
        """Returns the plaintext of a wrapped key.

        Args:
            wrapped_key: A wrapped key of which `kek_id_of` has returned the KEK.
            context: The caller's context as `encode_context` returned it.

        Raises:
            UnknownKekError: The wrapped key names another KEK.
            WrappedKeyCorruptError: The nonce or the commitment was changed, or another key
                made it.
            ContextMismatchError: The context, cluster or region differs, or the ciphertext or tag
                was changed. Nothing can tell which.
        """
        if not wrapped_key.startswith(self._head):
            raise _other_kek()
        nonce, sealed = wrapped_key[_NONCE_AT:_SEALED_AT], wrapped_key[_SEALED_AT:]
        try:
            return self._key.open(nonce, sealed, self._aad + context)
        except (CommitmentError, TagError) as fault:
            raise _refused(fault) from fault

    def open_batch(self, items: Sequence[tuple[bytes, bytes]]) -> list[bytes | KeyfoldError]:
        """Opens many wrapped keys, given as the arguments of `open`, in less time.

        Returns:
            For each its plaintext, or the error that `open` would raise for it.
        """
        aad, head = self._aad, self._head
        messages = [
            (wrapped_key[_NONCE_AT:_SEALED_AT], wrapped_key[_SEALED_AT:], aad + context)
            for wrapped_key, context in items
            if wrapped_key.startswith(head)
        ]
        results = [
            opened if isinstance(opened, bytes) else _refused(opened)
            for opened in self._key.open_batch(messages)
        ]
        if len(messages) < len(items):
            for place, (wrapped_key, _) in enumerate(items):
                if not wrapped_key.startswith(head):
                    results.insert(place, _other_kek())
        return results


def _other_kek() -> UnknownKekError:
    # A KEK compares ids because the AAD has its own id, not the wrapped key's. Otherwise a changed
    # id would go unnoticed wherever the wrong KEK was looked up.
    return UnknownKekError(
        "the wrapped key names another key encryption key; check the cluster's name",
        field="wrapped_key",
    )


def _refused(fault: CommitmentError | TagError) -> KeyfoldError:
    if isinstance(fault, CommitmentError):
        return WrappedKeyCorruptError(
            "the wrapped key was changed after it was made; restore it from where it was stored "
            "first",
            field="wrapped_key",
        )
    return ContextMismatchError(
        "the context differs from the one of the Wrap call, or the wrapped key was changed; send "
        "the same context again"
    )
