"""Sealing and opening messages under one data key."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from keyfold.crypto.faults import CommitmentError, TagError
from keyfold.envelope.message import MESSAGE, NONCE_SIZE, Kind, Message
from keyfold.errors import MessageCorruptError
from keyfold.models.specs import Buffer

if TYPE_CHECKING:
    from keyfold.crypto.xaes import SharedKey


def key_of(secret: Buffer) -> SharedKey:
    """Returns a data key, ready to use.

    Raises:
        MessageCorruptError: The secret does not have 32 bytes, so no envelope sealed with it.
    """
    # Imported late: a program that only calls the server does not load `cryptography`.
    from keyfold.crypto.xaes import KEY_SIZE, SharedKey

    if len(secret) != KEY_SIZE:
        raise corrupt(
            MESSAGE, f"its wrapped key holds a secret of {len(secret)} bytes, and no data key"
        )
    return SharedKey(secret)


def seal(key: SharedKey, head: bytes, aad: bytes, data: bytes) -> bytes:
    """Returns a message.

    Args:
        key: The data key.
        head: What stands in the message before the nonce.
        aad: What the message is bound to.
        data: What it holds.
    """
    # Random nonces do not repeat, for any number of processes, forked ones among them.
    return key.seal(os.urandom(NONCE_SIZE), data, aad, head)


def open_message(key: SharedKey, message: Message, aad: bytes) -> bytes:
    """Returns the data of a message.

    Raises:
        MessageCorruptError: It was changed, has parts of another message, or is bound to something
            else.
    """
    try:
        return key.open(message.nonce, message.sealed, aad, message.commitment)
    except CommitmentError as error:
        name = message.kind.name
        fault = f"it was changed, cut or extended, or has another {name}'s wrapped key"
        raise corrupt(message.kind, fault) from error
    except TagError as error:
        fault = "its data or context was changed, or it is another cluster's"
        raise corrupt(message.kind, fault) from error


def corrupt(kind: Kind, fault: str) -> MessageCorruptError:
    """Returns an error about a message that does not open."""
    return MessageCorruptError(
        f"the {kind.name} does not open: {fault}; restore it from where it was stored first",
        code="INVALID_ARGUMENT",
    )
