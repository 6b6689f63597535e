"""What the envelope needs of a data key, and how long one may serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from keyfold.arguments import check_of, wrong_value
from keyfold.calls.watch import Moment

if TYPE_CHECKING:  # it loads `cryptography`
    from keyfold.crypto.xaes import SharedKey


class OpeningKey(Protocol):
    """A data key that opens messages. It stays whole for as long as its context is entered."""

    @property
    def key(self) -> SharedKey:
        """The key, ready to use.

        Raises:
            MessageCorruptError: What was wrapped is not a data key.
        """
        ...


class SealingKey(OpeningKey, Protocol):
    """A data key that seals messages."""

    @property
    def wrapped_key(self) -> bytes:
        """The same key, wrapped."""
        ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long one data key may seal messages. The first bound that is reached ends it.

    Attributes:
        max_messages: Most messages.
        max_bytes: Most bytes of data in all its messages. A larger message has a key of its own.
        max_age: Seconds from the call that made it.

    Raises:
        ArgumentTypeError: A bound is not a number.
        ArgumentValueError: It is too small to seal one message.
    """

    max_messages: int
    max_bytes: int
    max_age: float

    def __post_init__(self) -> None:
        check_of(Bounds)(self, "bounds")
        if self.max_messages < 1 or self.max_bytes < 0 or not self.max_age >= 0:
            raise wrong_value(
                "max_messages must be at least 1, and max_bytes and max_age not negative"
            )

    def allow(self, messages: int, size: int, began: Moment, now: Moment) -> bool:
        """Returns whether a data key may seal one more message.

        Args:
            messages: How many messages it has sealed.
            size: Bytes of their data and of the further message's.
            began: When the call began that made it.
            now: This moment.
        """
        return (
            messages < self.max_messages
            and size <= self.max_bytes
            and now.before(began.after(self.max_age))
        )
