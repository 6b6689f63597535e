"""What all answers have: a form for logs and for programs in other languages."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from keyfold.errors import KeyfoldError
from keyfold.models.plaintext import Plaintext


class Answer:
    """Base of what the client's methods return."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the answer as a dict that `json.dumps` takes, by the names of its attributes.

        Values have the forms of `keyfold --json`: bytes in base64, times in RFC 3339, spans of time
        such as `"60s"`, an error as a dict. A plaintext key is not in it.
        """
        return _of_fields(self)


def _of_fields(value: Any) -> dict[str, Any]:
    parts = ((field.name, getattr(value, field.name)) for field in fields(value))
    return {name: _plain(part) for name, part in parts if not isinstance(part, Plaintext)}


def _plain(value: Any) -> Any:
    """Returns a value in types that JSON has."""
    for kind, form in _FORMS:
        if isinstance(value, kind):
            return form(value)
    return _of_fields(value) if is_dataclass(value) else value


def _span(value: timedelta) -> str:
    return f"{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


_FORMS: Final[Sequence[tuple[Any, Callable[[Any], Any]]]] = (
    (str, str),  # of an enum, too
    (bytes, lambda value: base64.b64encode(value).decode()),
    (datetime, lambda value: value.astimezone(UTC).isoformat().replace("+00:00", "Z")),
    (timedelta, _span),
    (KeyfoldError, KeyfoldError.to_dict),
    (Mapping, lambda value: {name: _plain(part) for name, part in value.items()}),
    ((tuple, list), lambda value: [_plain(part) for part in value]),
)
"""The form of each type; a dataclass becomes a dict, and what JSON has stays."""
