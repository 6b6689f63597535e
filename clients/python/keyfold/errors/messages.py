"""What is wrong with a message, or with data to seal. The client finds these itself."""

from __future__ import annotations

from keyfold.errors.branches import InvalidInputError


class DataTooLargeError(InvalidInputError):
    """The data is too large for one message. Divide it, or encrypt it as a stream."""

    reason = "DATA_TOO_LARGE"


class MessageInvalidError(InvalidInputError):
    """The message does not open, whatever the state of its key. The leaves say why."""

    reason = "MESSAGE_INVALID"


class NotAMessageError(MessageInvalidError):
    """The bytes are not a message: they were cut, or are still in a text encoding."""

    reason = "NOT_A_MESSAGE"


class UnsupportedMessageError(MessageInvalidError):
    """The message has a version or suite that this release does not know."""

    reason = "UNSUPPORTED_MESSAGE"


class MessageContextError(MessageInvalidError):
    """The message's context does not have the pairs that the caller demands."""

    reason = "MESSAGE_CONTEXT_MISMATCH"


class MessageCorruptError(MessageInvalidError):
    """The message was changed after it was sealed, or was sealed for another cluster."""

    reason = "MESSAGE_CORRUPT"
