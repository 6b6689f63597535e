"""How the values of a column become bytes, and bytes values."""

from __future__ import annotations

import json
from typing import Any, Final, Protocol

from keyfold.integrations.columns.faults import EncryptedColumnError


class Codec(Protocol):
    """Turns the values of a column into bytes and back.

    Attributes:
        name: What the values are, for people.
    """

    name: str

    def encode(self, value: Any, column: object) -> bytes:
        """Returns a value's bytes.

        Raises:
            EncryptedColumnError: The value has another type; the message names the column.
        """
        ...

    def decode(self, data: bytes, column: object) -> Any:
        """Returns the value of bytes.

        Raises:
            EncryptedColumnError: They are of another kind; the message names the column.
        """
        ...


class Text:
    """Texts, in UTF-8."""

    name = "text"

    def encode(self, value: Any, column: object) -> bytes:
        """Returns the text's bytes."""
        if not isinstance(value, str):
            raise wrong_type(value, column, self.name)
        # Python's own error has the whole text. So it must not even be the context of ours.
        try:
            return value.encode()
        except UnicodeEncodeError:
            pass
        raise EncryptedColumnError(
            f"column {column} was given a text with half of a surrogate pair, which has no bytes"
        )

    def decode(self, data: bytes, column: object) -> Any:
        """Returns the text."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
        raise _another_kind(column, self.name)


class Binary:
    """Bytes, as they are."""

    name = "bytes"

    def encode(self, value: Any, column: object) -> bytes:
        """Returns the bytes."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise wrong_type(value, column, self.name)
        return bytes(value)

    def decode(self, data: bytes, column: object) -> Any:  # noqa: ARG002  all bytes are bytes
        """Returns the bytes."""
        return data


class Json:
    """What JSON can say.

    Args:
        encoder: A subclass of JSONEncoder that also writes other values.
        decoder: A subclass of JSONDecoder that reads them.
    """

    name = "JSON"

    def __init__(
        self,
        encoder: type[json.JSONEncoder] | None = None,
        decoder: type[json.JSONDecoder] | None = None,
    ) -> None:
        self._encoder = encoder
        self._decoder = decoder

    def encode(self, value: Any, column: object) -> bytes:
        """Returns the JSON text's bytes."""
        try:
            text = json.dumps(value, cls=self._encoder, separators=(",", ":"), allow_nan=False)
            return text.encode()
        except (TypeError, ValueError, RecursionError):
            # The cause would show what the value holds.
            raise wrong_type(value, column, self.name) from None

    def decode(self, data: bytes, column: object) -> Any:
        """Returns what the JSON text says."""
        try:
            return json.loads(data, cls=self._decoder)
        except (ValueError, RecursionError):
            pass
        raise _another_kind(column, self.name)


TEXT: Final = Text()
BINARY: Final = Binary()
JSON: Final = Json()


def wrong_type(value: object, column: object, name: str) -> EncryptedColumnError:
    """Returns the error about a value that a column does not take."""
    return EncryptedColumnError(
        f"column {column} holds {name}, and was given {type(value).__name__} that is none"
    )


def _another_kind(column: object, name: str) -> EncryptedColumnError:
    """Returns the error about a value that was stored when the column held something else."""
    return EncryptedColumnError(
        f"a value of column {column} opens and is no {name}: it was stored when the column was "
        "declared otherwise; read it with that declaration, and store it anew"
    )
