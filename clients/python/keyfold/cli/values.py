"""Small values of the command line: durations, names with values, base64, enums."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, TypeVar

from keyfold.cli.failures import InputError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Choice = TypeVar("Choice", bound=StrEnum)


def seconds(text: str, name: str) -> float:
    """Reads a duration such as `500ms`, `60s`, `15m`, `1h`; a bare number is seconds.

    Raises:
        InputError: It is something else.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{name}: {text!r} is not a duration such as 60s, 15m or 1h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def pairs(texts: Iterable[str], name: str) -> dict[str, str]:
    """Reads NAME=VALUE arguments.

    Raises:
        InputError: One has no `=`, or a name comes twice.
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
    """Reads standard base64, with space around it allowed.

    Raises:
        ValueError: It is something else.
    """
    try:
        return base64.b64decode(b"".join(_ascii(text).split()), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not base64") from None


def to_base64(data: bytes) -> str:
    """Returns standard base64."""
    return base64.b64encode(data).decode()


def choice(kind: type[Choice], text: str | None, name: str) -> Choice:
    """Reads one of an enum's names in any case; None is its UNSPECIFIED.

    Raises:
        InputError: The enum has no such name.
    """
    if text is None:
        return kind("UNSPECIFIED")
    known = names(kind)
    if text.upper() not in known:
        raise InputError(f"{name}: {text!r} is none of {', '.join(known)}")
    return kind(text.upper())


def names(kind: type[StrEnum]) -> list[str]:
    """Returns the names that `choice` takes."""
    return [one.value for one in kind if one.value != "UNSPECIFIED"]


def _ascii(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("ascii")
