"""Reads the TOML file, and says of each fault the key and the line.

Invariant: no message repeats a value of the file, because one could be a secret in the wrong place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from keyfold_relay.config.model import Config

_WORDS: Final = {
    "extra_forbidden": "there is no such setting; leave it out",
    "missing": "it is missing; set it",
    "union_tag_not_found": "set kind to webhook, file, stdout or s3",
    "union_tag_invalid": "the kinds are webhook, file, stdout and s3",
    "string_pattern_mismatch": "it has characters that a name of this kind cannot have, or too "
    "many of them",
}
"""Pydantic's faults for which the relay has words of its own."""

_KINDS: Final = ("webhook", "file", "stdout", "s3")
_TABLE: Final = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?")
_KEY: Final = re.compile(r"""\s*("[^"]*"|'[^']*'|[A-Za-z0-9_-]+)\s*[=.]""")


class ConfigError(Exception):
    """The file cannot be used; each line of the message names one fault."""


def load(path: Path) -> Config:
    """Reads and checks a file.

    Raises:
        ConfigError: It cannot be read, is not TOML, or a key or a value is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        lines = text.splitlines()
        raise ConfigError(
            "\n".join(
                _fault(path, lines, fault["loc"], fault["type"], fault["msg"]) for fault in faults
            )
        ) from None


def _fault(
    path: Path, lines: Sequence[str], loc: Sequence[str | int], kind: str, message: str
) -> str:
    keys = [str(one) for one in loc]
    # Pydantic names the kind of a target after the target.
    if keys[:1] == ["targets"] and keys[2:3] and keys[2] in _KINDS:
        del keys[2]
    keys = [one for one in keys if one != "[key]"]
    text = _WORDS.get(kind, message.removeprefix("Value error, "))
    line = _line(lines, keys)
    place = f"{path}:{line}" if line else str(path)
    return f"{place}: {'.'.join(keys) or 'the file'}: {text}"


def _line(lines: Sequence[str], keys: Sequence[str]) -> int:
    """Returns the number of the line that sets a key, or of its table; 0 if there is neither."""
    best, found, table = 0, 0, list[str]()
    for number, line in enumerate(lines, 1):
        if header := _TABLE.fullmatch(line):
            table = [part.strip(" \"'") for part in header[1].split(".")]
            here = table
        elif key := _KEY.match(line):
            here = [*table, key[1].strip("\"'")]
        else:
            continue
        depth = len(here)
        if list(keys[:depth]) == here and depth > best:
            best, found = depth, number
    return found
