"""Sealing and opening messages under one data key."""

from __future__ import annotations

import hmac
import os
from threading import Lock
from typing import Final

from cryptography.exceptions import InvalidTag

from keyfold.crypto.xaes import KEY_SIZE, NONCE_SIZE, PREFIX_SIZE, CommittingKey
from keyfold.envelope.message import Message
from keyfold.errors import MessageCorruptError
from keyfold.models.specs import Buffer

DATA_KEY_SIZE: Final = KEY_SIZE
"""Bytes of a data key."""


class MessageCipher:
    """One data key, ready to seal and open. Any number of threads may share it.

    Args:
        key: The data key. The caller keeps and wipes its own copy.

    Raises:
        MessageCorruptError: The key does not have 32 bytes, so no envelope sealed with it.
    """

    __slots__ = ("_key", "_turn")

    def __init__(self, key: Buffer) -> None:
        if len(key) != KEY_SIZE:
            raise MessageCorruptError(
                f"the wrapped key holds a secret of {len(key)} bytes, and a data key has "
                f"{KEY_SIZE}: it is not this message's; restore the message from where it was "
                "stored first",
                code="INVALID_ARGUMENT",
            )
        self._key = CommittingKey(bytearray(key))
        self._turn = Lock()

    def __repr__(self) -> str:
        return "MessageCipher(<redacted>)"

    def seal(self, head: bytes, aad: bytes, data: bytes) -> bytes:
        """Returns a message.

        Args:
            head: What stands in it before the nonce.
            aad: What it is bound to.
            data: What it holds.
        """
        # Random nonces, which do not repeat for any number of processes, forked ones among them.
        nonce = os.urandom(NONCE_SIZE)
        with self._turn:
            cipher, commitment = self._key.for_nonce(nonce)
        return b"".join((head, nonce, cipher.encrypt(nonce[PREFIX_SIZE:], data, aad), commitment))

    def open(self, message: Message, aad: bytes) -> bytes:
        """Returns the data of a message.

        Raises:
            MessageCorruptError: It was changed, has parts of another message, or is bound to
                something else.
        """
        with self._turn:
            cipher, commitment = self._key.for_nonce(message.nonce)
        if not hmac.compare_digest(message.commitment, commitment):
            raise _corrupt("it was changed, cut or extended, or has another message's wrapped key")
        try:
            return cipher.decrypt(message.nonce[PREFIX_SIZE:], message.sealed, aad)
        except InvalidTag as error:
            raise _corrupt("its data or context was changed, or it is another cluster's") from error


def _corrupt(fault: str) -> MessageCorruptError:
    return MessageCorruptError(
        f"the message does not open: {fault}; restore it from where it was stored first",
        code="INVALID_ARGUMENT",
    )
