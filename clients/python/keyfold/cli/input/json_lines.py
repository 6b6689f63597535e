"""Lines of JSON from files of any size, and objects whose values stay as they were written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from keyfold.cli.errors import InputError

if TYPE_CHECKING:
    from hashlib import _Hash

MAX_LINE: Final = 1024 * 1024
"""Most bytes of a line. A line with the largest wrapped key and context has about 10 KiB."""

_BOM: Final = "\ufeff"

_DECODER: Final = json.JSONDecoder()

_SPACE: Final = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the input.

    Attributes:
        number: Its number, from 1.
        raw: Its bytes with their line break; None if it is longer than `MAX_LINE`.
        size: The number of its bytes.
    """

    number: int
    raw: bytes | None
    size: int

    @property
    def is_empty(self) -> bool:
        """Whether it has white space only."""
        return self.raw is not None and not self.raw.strip()

    def to_object(self) -> JsonObject:
        """Reads the line.

        Raises:
            InputError: It is not an object, or has a field twice.
        """
        if self.raw is None:
            raise InputError(f"is longer than {MAX_LINE // 1024:,} KiB")
        try:
            return JsonObject(self.raw.decode().removeprefix(_BOM))
        except (ValueError, RecursionError):
            # The parser's own message would show part of the line, which may be part of a key.
            raise InputError("is not JSON") from None


def read_lines(file: BinaryIO, digest: _Hash | None = None, *, number: int = 0) -> Iterator[Line]:
    """Yields the rest of a file, line by line, and holds at most `MAX_LINE` bytes of a line.

    Args:
        file: The file.
        digest: A hash, which takes the bytes of each line before the line is yielded; or None.
        number: The number of the line before.

    Raises:
        InputError: The file cannot be read.
    """
    while raw := _read(file, MAX_LINE + 1):
        number += 1
        if digest is not None:
            digest.update(raw)
        size = len(raw)
        if size <= MAX_LINE:
            yield Line(number, raw, size)
            continue
        while not raw.endswith(b"\n") and (raw := _read(file, MAX_LINE)):
            if digest is not None:
                digest.update(raw)
            size += len(raw)
        yield Line(number, None, size)


def _read(file: BinaryIO, most: int) -> bytes:
    try:
        return file.readline(most)
    except OSError as problem:
        raise InputError(f"cannot read the input: {problem.strerror}") from problem


class JsonObject:
    """An object whose values are written as they were read, unless they are set.

    A number such as `1.10`, or the escapes in a text, would otherwise change on the way through
    Python.

    Attributes:
        values: The values by name.
    """

    __slots__ = ("_after", "_before", "_written", "values")

    def __init__(self, text: str) -> None:
        """Reads an object.

        Raises:
            ValueError: The text is not JSON.
            InputError: The text is not an object, or has a field twice.
        """
        self.values: dict[str, Any] = {}
        self._written: dict[str, str] = {}
        at = _after_space(text, 0)
        if text[at : at + 1] != "{":
            _DECODER.decode(text)
            raise InputError("must be an object")
        self._before = text[:at]
        at = _after_space(text, at + 1)
        if text[at : at + 1] != "}":
            at = self._fields(text, at)
        self._after = text[at + 1 :]
        if self._after.strip(" \t\r\n"):
            raise ValueError("something follows the object")

    def _fields(self, text: str, at: int) -> int:
        """Reads the fields; returns where the object's closing brace is."""
        while True:
            began = at
            name, at = _DECODER.raw_decode(text, at)
            at = _after_space(text, at)
            if not isinstance(name, str) or text[at : at + 1] != ":":
                raise ValueError("a name and a colon are missing")
            value, at = _DECODER.raw_decode(text, _after_space(text, at + 1))
            if name in self.values:
                raise InputError(f"{name}: is given twice")
            self.values[name] = value
            self._written[name] = text[began:at]
            at = _after_space(text, at)
            if text[at : at + 1] == "}":
                return at
            if text[at : at + 1] != ",":
                raise ValueError("a comma is missing")
            at = _after_space(text, at + 1)

    def set(self, name: str, value: Any) -> None:
        """Sets a field, in its place if the object has it, else at the end."""
        self.values[name] = value
        shown = json.dumps(value, ensure_ascii=False)
        self._written[name] = f"{json.dumps(name, ensure_ascii=False)}: {shown}"

    def drop(self, name: str) -> None:
        """Removes a field, if the object has it."""
        self.values.pop(name, None)
        self._written.pop(name, None)

    def __str__(self) -> str:
        return f"{self._before}{{{', '.join(self._written.values())}}}{self._after}"


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()
