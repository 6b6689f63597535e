"""The fields of a line of JSON that `--batch` reads, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from keyfold.cli.errors import InputError
from keyfold.cli.input.values import from_base64


def known(line: Mapping[str, Any], *names: str, reported: Iterable[str] = ()) -> None:
    """Refuses fields with other names.

    Args:
        line: The fields.
        names: The names of the fields that are read.
        reported: The names of fields with which a command reports on what it did.

    Raises:
        InputError: There is another field.
    """
    if unknown := sorted(line.keys() - {*names, *reported}):
        raise InputError(f"{unknown[0]}: unknown field; the fields are {', '.join(names)}")


def text_of(line: Mapping[str, Any], name: str) -> str:
    """Returns a text, or an empty one if the line has none.

    Raises:
        InputError: The value is not a text.
    """
    value = line.get(name, "")
    if not isinstance(value, str) or not _encodes(value):
        raise InputError(f"{name}: must be text")
    return value


def bytes_of(line: Mapping[str, Any], name: str) -> bytes:
    """Returns the bytes of a text in base64.

    Raises:
        InputError: The field is missing, or is not base64.
    """
    if name not in line:
        raise InputError(f"{name}: is missing")
    try:
        return from_base64(text_of(line, name))
    except ValueError:
        raise InputError(f"{name}: must be base64") from None


def context_of(line: Mapping[str, Any]) -> dict[str, str]:
    """Returns the context, or an empty one if the line has none.

    Raises:
        InputError: The value is not an object of text.
    """
    value = line.get("context", {})
    if not isinstance(value, dict) or not all(
        isinstance(one, str) and _encodes(one) and _encodes(name) for name, one in value.items()
    ):
        raise InputError("context: must be an object of text")
    return value


def _encodes(text: str) -> bool:
    """Returns whether a text has a form in UTF-8, which half of a surrogate pair has not."""
    return text.isascii() or not any("\ud800" <= one <= "\udfff" for one in text)
