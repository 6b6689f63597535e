"""Values that options and lines of input hold: durations, NAME=VALUE pairs, base64, enums."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, TypeVar

from keyfold.cli.errors import InputError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

Choice = TypeVar("Choice", bound=StrEnum)


def seconds(text: str, name: str) -> float:
    """Reads a duration such as `500ms`, `60s`, `1h` or `7d`; a number without a unit is seconds.

    Args:
        text: The duration.
        name: The option's name, for the error message.

    Raises:
        InputError: The text is not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{name}: {text!r} is not a duration such as 60s, 15m or 1h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def moment(text: str, name: str) -> datetime:
    """Reads a time such as `2026-01-31T12:00:00Z`, or a duration, which means so long ago.

    Args:
        text: The time. Without a zone it is local.
        name: The option's name, for the error message.

    Raises:
        InputError: The text is neither.
    """
    if _DURATION.fullmatch(text.strip()):
        return datetime.now(UTC) - timedelta(seconds=seconds(text, name))
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise InputError(
            f"{name}: {text!r} is neither a time such as 2026-01-31T12:00:00Z nor a duration "
            "such as 90m"
        ) from None


def pairs(texts: Iterable[str], name: str) -> dict[str, str]:
    """Reads NAME=VALUE arguments.

    Args:
        texts: The arguments.
        name: The option's name, for the error message.

    Raises:
        InputError: An argument has no name or no `=`, or two have the same name.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"{name}: {text!r} is not NAME=VALUE")
        if key in found:
            raise InputError(f"{name}: {key!r} is given twice")
        found[key] = value
    return found


def from_base64(text: str | bytes) -> bytes:
    """Decodes standard base64, and ignores white space.

    Raises:
        ValueError: The text is not base64.
    """
    try:
        return base64.b64decode(b"".join(_ascii(text).split()), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not base64") from None


def to_base64(data: bytes) -> str:
    """Encodes bytes as standard base64."""
    return base64.b64encode(data).decode()


def choice(kind: type[Choice], text: str | None, name: str) -> Choice:
    """Reads the name of an enum's member, in upper or lower case; None is UNSPECIFIED.

    Args:
        kind: The enum.
        text: The name.
        name: The option's name, for the error message.

    Raises:
        InputError: The enum has no such member.
    """
    if text is None:
        return kind("UNSPECIFIED")
    known = names(kind)
    if text.upper() not in known:
        raise InputError(f"{name}: {text!r} is not one of {', '.join(known)}")
    return kind(text.upper())


def names(kind: type[StrEnum]) -> list[str]:
    """Returns the names that `choice` accepts."""
    return [one.value for one in kind if one.value != "UNSPECIFIED"]


def _ascii(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("ascii")
