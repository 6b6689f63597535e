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

    def decode(self, data: bytes) -> Any:
        """Returns the value of bytes."""
        ...


class Text:
    """Texts, in UTF-8."""

    name = "text"

    def encode(self, value: Any, column: object) -> bytes:
        """Returns the text's bytes."""
        if not isinstance(value, str):
            raise wrong_type(value, column, self.name)
        return value.encode()

    def decode(self, data: bytes) -> Any:
        """Returns the text."""
        return data.decode()


class Binary:
    """Bytes, as they are."""

    name = "bytes"

    def encode(self, value: Any, column: object) -> bytes:
        """Returns the bytes."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise wrong_type(value, column, self.name)
        return bytes(value)

    def decode(self, data: bytes) -> Any:
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

    def decode(self, data: bytes) -> Any:
        """Returns what the JSON text says."""
        return json.loads(data, cls=self._decoder)


TEXT: Final = Text()
BINARY: Final = Binary()
JSON: Final = Json()


def wrong_type(value: object, column: object, name: str) -> EncryptedColumnError:
    """Returns the error about a value that a column does not take."""
    return EncryptedColumnError(
        f"column {column} holds {name}, and was given {type(value).__name__} that is none"
    )
