"""The bounds of a cache."""

from __future__ import annotations

from typing import Final, NamedTuple

from keyfold.arguments import wrong_value

UNWATCHED_AGE: Final = 5.0
"""Most seconds for which a key is kept without a watch."""


class Limits(NamedTuple):
    """The bounds of a cache.

    Attributes:
        max_keys: Most keys.
        max_age: Most seconds for which a key is kept.
        max_uses: Most uses of a key.
        grace: Seconds for which keys are used while the stream is away.
    """

    max_keys: int
    max_age: float
    max_uses: int
    grace: float

    def checked(self) -> Limits:
        """Returns the same bounds.

        Raises:
            ArgumentValueError: A bound is too small.
        """
        if self.max_keys < 1 or self.max_uses < 1 or not self.max_age > 0 or not self.grace >= 0:
            raise wrong_value(
                "max_keys and max_uses must be at least 1, max_age more than 0, and grace not "
                "negative"
            )
        return self
