"""The written forms of values in settings: durations, permissions, TOML."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer

MAX_PORT: Final = 65_535

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def seconds(value: object) -> object:
    """Returns the seconds of a duration such as `0s`, `500ms`, `60s`, `15m`, `24h` or `400d`."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError("write a duration with its unit, such as 0s, 500ms, 60s, 15m, 24h or 400d")
    return float(match[1]) * _UNITS[match[2]]


def duration(value: float) -> str:
    """Returns the written form of a duration in seconds."""
    for unit in ("d", "h", "m", "s"):
        # One day is written as 24h, beside the hours of other settings.
        least = _UNITS[unit] * 2 if unit == "d" else _UNITS[unit]
        if value >= least and value % _UNITS[unit] == 0:
            return f"{value / _UNITS[unit]:.0f}{unit}"
    # Enough digits to read the same number back, and no exponent.
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


def octal(value: object) -> object:
    """Returns the number of permissions in chmod's octal form, such as `0600`."""
    if not isinstance(value, str):
        return value
    try:
        return int(value, 8)
    except ValueError:
        raise ValueError("write permissions as chmod takes them, such as 0600 or 0660") from None


def as_octal(value: int) -> str:
    """Returns permissions in chmod's octal form."""
    return f"{value:04o}"


def listed(value: object) -> object:
    """Splits a list that is written with commas."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


Duration = Annotated[float, BeforeValidator(seconds), PlainSerializer(duration)]

Permissions = Annotated[int, BeforeValidator(octal), PlainSerializer(as_octal)]


def toml(values: Mapping[str, object]) -> str:
    """Returns settings as the text of a TOML file that a server can load."""
    return "\n".join(_lines(values, ())) + "\n"


def toml_value(value: object) -> str:
    """Returns a string, number, boolean or list as TOML.

    TOML writes them as JSON does, except that JSON leaves the character DEL unescaped.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lines(values: Mapping[str, object], above: tuple[str, ...]) -> Iterator[str]:
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    arrays = {name: _tables(value) for name, value in values.items()}
    arrays = {name: array for name, array in arrays.items() if array}
    for name, value in values.items():
        if name not in tables and name not in arrays:
            # A setting's name needs no quotes; a key that the operator chose may need them.
            written = name if name.isidentifier() else toml_value(name)
            yield f"{written} = {toml_value(value)}"
    for name, array in arrays.items():
        for table in array:
            yield f"\n[[{'.'.join((*above, name))}]]"
            yield from _lines(table, (*above, name))
    for name, table in tables.items():
        place = (*above, name if name.isidentifier() else toml_value(name))
        if any(not isinstance(value, dict) for value in table.values()):
            yield f"\n[{'.'.join(place)}]"
        yield from _lines(table, place)


def _tables(value: object) -> list[dict[str, object]]:
    """Returns the tables that a value is a list of; empty if it is not."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def is_loopback(host: str) -> bool:
    """Says whether a host is an address that only this machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
