"""What an application asks of an encrypted column that such a column cannot do."""

from __future__ import annotations

import keyfold


class EncryptedColumnError(keyfold.InvalidInputError):
    """The use is none that an encrypted column allows. Nothing was stored."""

    reason = "ENCRYPTED_COLUMN"

    def __init__(self, message: str) -> None:
        """Takes what is wrong, with the column's name and never with a value."""
        super().__init__(message, code="INVALID_ARGUMENT")

    def __reduce__(self) -> tuple[type[EncryptedColumnError], tuple[str]]:
        return type(self), (self.message,)
