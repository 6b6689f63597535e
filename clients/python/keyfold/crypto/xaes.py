"""KC-XAES-256-GCM: AES-256-GCM for random nonces without counting, committed to one key.

Sources of every rule here: C2SP's XAES-256-GCM for the derived key and the ciphertext, and its
key-committing variant (ePrint 2025/758; vectors from AWS-LC) for the commitment. Under a key K
and a nonce N of 24 bytes, with L = AES_K(0) and K1 = L doubled in GF(2^128):

    Kx          AES_K(K1 ^ (00 01 'X' 00 ‖ N[:12])) ‖ AES_K(K1 ^ (00 02 'X' 00 ‖ N[:12]))
    ciphertext  AES-256-GCM under Kx with nonce N[12:], tag of 16 bytes at the end
    commitment  CMAC_K('XCMT' ‖ N ‖ 00 01 ‖ 00 01) ‖ CMAC_K('XCMT' ‖ N ‖ 00 01 ‖ 00 02)

Each CMAC input fills its blocks, so CMAC's second subkey is never used. Only a few unchained AES
blocks depend on K, and one ECB context computes them: the first block of the commitment together
with Kx, then its two last blocks together. ECB alone hides nothing. Here it is only the block
cipher inside CMAC, and its output leaves this module only as a derived key or a finished CMAC.

This module knows nothing of wrapped keys and messages, whose bytes others lay out.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence
from struct import Struct
from threading import Lock
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyfold.crypto.faults import CommitmentError, TagError

KEY_SIZE: Final = 32
"""Bytes of a key."""

NONCE_SIZE: Final = 24
"""Bytes of a nonce. About 2^80 messages under one key may have random ones, without counting."""

PREFIX_SIZE: Final = 12
"""Bytes of a nonce that choose the derived key. The other 12 are AES-GCM's own nonce."""

TAG_SIZE: Final = 16
"""Bytes of the tag that ends the ciphertext."""

COMMITMENT_SIZE: Final = 32
"""Bytes of the key commitment: two CMACs."""

_BLOCK: Final = 16
"""Bytes of an AES block."""

# Blocks are handled as big-endian integers: one multiplication repeats a value into each block,
# and one exclusive-or sets what differs. Python has no faster exclusive-or of bytes.
_SUFFIX_RANGE: Final = 1 << 96
_TWO_BLOCKS: Final = 1 << 128 | 1
_THREE_BLOCKS: Final = 1 << 256 | _TWO_BLOCKS
_LABELS: Final = int.from_bytes(
    b"\x00\x01X\x00" + bytes(12) + b"\x00\x02X\x00" + bytes(12) + b"XCMT" + bytes(12)
)
_COUNTERS: Final = int.from_bytes(bytes(12) + b"\x00\x01\x00\x01" + bytes(12) + b"\x00\x01\x00\x02")
_SUFFIX_TWICE: Final = _TWO_BLOCKS << 32
_PAD: Final = bytes(4)
"""Where a block has its label or its counters beside a half of the nonce."""

_DERIVED: Final = Struct(f"{KEY_SIZE}s{_BLOCK}s")
_COMMITMENT: Final = Struct(f"{COMMITMENT_SIZE}s")

_NONCE_LENGTH: Final = f"a nonce has {NONCE_SIZE} bytes"

_Derived = tuple[AESGCM, int]


class CommittingKey:
    """One 256-bit key, ready to seal and open.

    The key's bytes stay only in the cipher context, until the object is dropped. The object also
    keeps K1, which opens nothing alone. Python wipes neither integers nor derived keys when it
    frees them, so wiping is best effort: it only shortens the time that a key stays in memory.

    An object belongs to one thread, because its cipher context is mutable and has no lock;
    `SharedKey` has one.

    Args:
        key: 32 uniformly random bytes. Wiped before this returns, and when it raises.

    Raises:
        ValueError: The key has another length.
    """

    __slots__ = ("_ecb", "_k1", "_masks")

    def __init__(self, key: bytearray) -> None:
        try:
            if len(key) != KEY_SIZE:
                raise ValueError(f"a key has {KEY_SIZE} bytes")
            self._ecb = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update  # noqa: S305  CMAC's own block cipher
        finally:
            key[:] = bytes(len(key))
        doubled = int.from_bytes(self._ecb(bytes(16))) << 1
        # Reduced by a product, not by a branch, which would show a bit of L in the time taken.
        self._k1 = doubled ^ (doubled >> 128) * (1 << 128 | 0x87)
        self._masks = self._k1 * (_TWO_BLOCKS << 128) ^ _LABELS

    def __repr__(self) -> str:
        return "CommittingKey(<redacted>)"

    def seal(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Returns ciphertext, tag and commitment: 48 bytes more than the plaintext.

        Args:
            nonce: 24 random bytes that were never used with this key.
            plaintext: Any number of bytes.
            aad: Bytes that `open` needs again.

        Raises:
            ValueError: The nonce has another length.
        """
        if len(nonce) != NONCE_SIZE:
            raise ValueError(_NONCE_LENGTH)
        suffix = nonce[PREFIX_SIZE:]
        cipher, mask = self._derive(nonce[:PREFIX_SIZE])
        return cipher.encrypt(suffix, plaintext, aad) + self._commitment(mask, suffix)

    def seal_batch(
        self, nonce: bytes, items: Sequence[tuple[bytes, bytes]], head: bytes = b""
    ) -> list[bytes]:
        """Seals many messages under one derived key. Each opens by itself like any other.

        The nonces share their prefix and count up in their suffix, modulo 2^96, so no nonce comes
        twice within a batch. With a fresh random prefix and start, q batches of m messages under
        one key repeat a nonce with a probability of about q²·m·2^-192, which is smaller than with
        as many independent random nonces.

        Args:
            nonce: The first message's nonce: 24 random bytes, drawn for this call.
            items: The plaintext and aad of each message; far fewer than the 2^32 that AES-GCM
                allows.
            head: Bytes to put before each message's nonce.

        Returns:
            For each item, in order: the head, its nonce and its sealed message, in one.

        Raises:
            ValueError: The nonce has another length.
        """
        if len(nonce) != NONCE_SIZE:
            raise ValueError(_NONCE_LENGTH)
        prefix, start = nonce[:PREFIX_SIZE], int.from_bytes(nonce[PREFIX_SIZE:])
        numbers = [number % _SUFFIX_RANGE for number in range(start, start + len(items))]
        cipher, mask = self._derive(prefix)
        # As in `_commitment`, for all messages in one call of the cipher.
        blocks = [(n * _SUFFIX_TWICE ^ mask).to_bytes(COMMITMENT_SIZE) for n in numbers]
        commitments = _COMMITMENT.iter_unpack(self._ecb(b"".join(blocks)))
        begin = head + prefix
        return [
            begin + suffix + cipher.encrypt(suffix, plaintext, aad) + commitment
            for suffix, (plaintext, aad), (commitment,) in zip(
                [number.to_bytes(12) for number in numbers], items, commitments, strict=True
            )
        ]

    def open(self, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        """Returns the plaintext of a sealed message.

        Raises:
            CommitmentError: The commitment does not match: the key or the bytes differ.
            TagError: The tag does not match: the aad or the ciphertext differs.
            ValueError: The nonce has another length.
        """
        return self._open(self._derive(nonce[:PREFIX_SIZE]), nonce, sealed, aad)

    def open_batch(
        self, messages: Sequence[tuple[bytes, bytes, bytes]]
    ) -> list[bytes | CommitmentError | TagError]:
        """Opens many messages, given as the arguments of `open`.

        Messages whose nonces share a prefix share a derived key. The blocks of all messages are
        made and encrypted together, which takes a third less time than to open one by one.

        Returns:
            For each message, in order: its plaintext, or what `open` would raise for it.

        Raises:
            ValueError: A nonce has another length.
        """
        if {len(nonce) for nonce, _, _ in messages} - {NONCE_SIZE}:
            raise ValueError(_NONCE_LENGTH)
        prefixes = [nonce[:PREFIX_SIZE] for nonce, _, _ in messages]
        suffixes = [nonce[PREFIX_SIZE:] for nonce, _, _ in messages]
        derived = self._derive_all(dict.fromkeys(prefixes))
        chain = [derived[prefix] for prefix in prefixes]
        # As in `_commitment`: first the encrypted first block, then the nonce's end, then K1 and
        # the counters.
        blocks = _xor(
            b"".join([first * 2 for _, first in chain]),
            b"".join([(suffix + _PAD) * 2 for suffix in suffixes]),
            (self._k1 * _TWO_BLOCKS ^ _COUNTERS).to_bytes(COMMITMENT_SIZE) * len(messages),
        )
        commitments = _COMMITMENT.iter_unpack(self._ecb(blocks))
        results: list[bytes | CommitmentError | TagError] = []
        for (cipher, _), suffix, (_, sealed, aad), (committed,) in zip(
            chain, suffixes, messages, commitments, strict=True
        ):
            body, commitment = sealed[:-COMMITMENT_SIZE], sealed[-COMMITMENT_SIZE:]
            try:
                results.append(_opened(cipher, suffix, body, aad, commitment, committed))
            except (CommitmentError, TagError) as fault:
                results.append(fault)
        return results

    def for_nonce(self, nonce: bytes) -> tuple[AESGCM, bytes]:
        """Returns the cipher of one message, whose own nonce is nonce[12:], and its commitment.

        Raises:
            ValueError: The nonce has another length.
        """
        if len(nonce) != NONCE_SIZE:
            raise ValueError(_NONCE_LENGTH)
        cipher, mask = self._derive(nonce[:PREFIX_SIZE])
        return cipher, self._commitment(mask, nonce[PREFIX_SIZE:])

    def _derive(self, prefix: bytes) -> _Derived:
        """Returns the cipher of a nonce prefix, and the mask of the commitment's last blocks.

        The mask is, for each of the two CMACs, E(first block) ^ K1 ^ the counters at the block's
        end.
        """
        blocks = self._ecb((int.from_bytes(prefix) * _THREE_BLOCKS ^ self._masks).to_bytes(48))
        mask = (int.from_bytes(blocks[32:]) ^ self._k1) * _TWO_BLOCKS ^ _COUNTERS
        return AESGCM(blocks[:32]), mask

    def _derive_all(self, prefixes: Collection[bytes]) -> dict[bytes, tuple[AESGCM, bytes]]:
        """Returns the cipher of each prefix, and the commitment's encrypted first block."""
        blocks = _xor(
            b"".join([(_PAD + prefix) * 3 for prefix in prefixes]),
            self._masks.to_bytes(3 * _BLOCK) * len(prefixes),
        )
        return {
            prefix: (AESGCM(key), first)
            for prefix, (key, first) in zip(
                prefixes, _DERIVED.iter_unpack(self._ecb(blocks)), strict=True
            )
        }

    def _commitment(self, mask: int, suffix: bytes) -> bytes:
        return self._ecb((int.from_bytes(suffix) * _SUFFIX_TWICE ^ mask).to_bytes(32))

    def _open(self, derived: _Derived, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        if len(nonce) != NONCE_SIZE:
            raise ValueError(_NONCE_LENGTH)
        cipher, mask = derived
        suffix = nonce[PREFIX_SIZE:]
        committed = self._commitment(mask, suffix)
        body, commitment = sealed[:-COMMITMENT_SIZE], sealed[-COMMITMENT_SIZE:]
        return _opened(cipher, suffix, body, aad, commitment, committed)


def _xor(*parts: bytes) -> bytes:
    """Returns the exclusive-or of parts of one length."""
    number = 0
    for part in parts:
        number ^= int.from_bytes(part)
    return number.to_bytes(len(parts[0]))


def _opened(
    cipher: AESGCM,
    suffix: bytes,
    sealed: bytes | memoryview,
    aad: bytes,
    commitment: bytes,
    committed: bytes,
) -> bytes:
    """Returns the plaintext of a message whose commitment should be `committed`."""
    # The commitment comes first: only a message made under this very key reaches the cipher, so a
    # tag that fails is about the aad or the ciphertext, never about the key.
    if not hmac.compare_digest(commitment, committed):
        raise CommitmentError
    try:
        return cipher.decrypt(suffix, sealed, aad)
    except InvalidTag as error:
        raise TagError from error


class SharedKey:
    """One 256-bit key that any number of threads share, for messages of any length.

    They take turns to derive a message's cipher, and not while it works.

    Args:
        key: 32 uniformly random bytes. The caller keeps and wipes its own copy.

    Raises:
        ValueError: The key has another length.
    """

    __slots__ = ("_key", "_turn")

    def __init__(self, key: bytes | bytearray | memoryview) -> None:
        self._key = CommittingKey(bytearray(key))
        self._turn = Lock()

    def __repr__(self) -> str:
        return "SharedKey(<redacted>)"

    def seal(
        self, nonce: bytes, plaintext: bytes | memoryview, aad: bytes, head: bytes = b""
    ) -> bytes:
        """Returns the head, the nonce and what `CommittingKey.seal` returns, in one."""
        with self._turn:
            cipher, commitment = self._key.for_nonce(nonce)
        # Joined once: a large message must not be copied for each of its parts.
        return b"".join(
            (head, nonce, cipher.encrypt(nonce[PREFIX_SIZE:], plaintext, aad), commitment)
        )

    def open(
        self, nonce: bytes, sealed: bytes | memoryview, aad: bytes, commitment: bytes
    ) -> bytes:
        """Returns the plaintext of a sealed message whose commitment is apart.

        Raises:
            CommitmentError: The commitment does not match: the key or the bytes differ.
            TagError: The tag does not match: the aad or the ciphertext differs.
            ValueError: The nonce has another length.
        """
        with self._turn:
            cipher, committed = self._key.for_nonce(nonce)
        return _opened(cipher, nonce[PREFIX_SIZE:], sealed, aad, commitment, committed)
