"""How a case's expectation is held against what a client returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """Yields in what a value differs from an expectation.

    An object has to have the fields that the expectation has, and may have more. A list has to have
    the same number of items. An expectation can also be one of these:

        {"$bytes": 122}                 so many bytes
        {"$count": 1001}                a list of so many items
        {"$count": 1001, "$each": …}    the same, with an expectation for each item
    """
    if isinstance(expected, dict) and "$bytes" in expected:
        if not isinstance(found, str) or len(bytes.fromhex(found)) != expected["$bytes"]:
            yield f"{where}: {found!r} is not {expected['$bytes']} bytes"
    elif isinstance(expected, dict) and "$count" in expected:
        each = expected.get("$each", {})
        yield from _of_list([each] * expected["$count"], found, where)
    elif isinstance(expected, dict):
        for name, one in expected.items():
            part = found.get(name) if isinstance(found, dict) else None
            yield from differences(one, part, f"{where}.{name}")
    elif isinstance(expected, list):
        yield from _of_list(expected, found, where)
    elif expected != found:
        yield f"{where}: {found!r} is not {expected!r}"


def _of_list(expected: list[Any], found: Any, where: str) -> Iterator[str]:
    if not isinstance(found, list) or len(found) != len(expected):
        yield f"{where}: not {len(expected)} items, but {found!r:.500}"
        return
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        yield from differences(one, other, f"{where}[{number}]")


def filled(given: Any, kept: Mapping[str, Any]) -> Any:
    """Returns a value of a case with what stands for something else put in.

    `"$name"` is what an earlier step has kept, or `$cluster`, which may also stand within a text.
    `{"$times": 1001, "of": …}` is a list of so many of the same, `{"$hex": "ab", "times": 4096}` so
    many of the same bytes.
    """
    if isinstance(given, str):
        whole = given[1:] if given.startswith("$") else ""
        return kept[whole] if whole in kept else given.replace("$cluster", kept["cluster"])
    if isinstance(given, list):
        return [filled(one, kept) for one in given]
    if not isinstance(given, dict):
        return given
    if "$times" in given:
        return [filled(given["of"], kept)] * given["$times"]
    if "$hex" in given:
        return given["$hex"] * given["times"]
    return {name: filled(one, kept) for name, one in given.items()}


def picked(value: Any, path: str) -> Any:
    """Returns the part of a value at a path such as `0.wrapped_key`; all of it for no path."""
    for name in path.split(".") if path else ():
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value
