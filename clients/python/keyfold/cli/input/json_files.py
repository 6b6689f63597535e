"""Files of JSON, as commands read them."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from keyfold.cli.errors import InputError
from keyfold.cli.input.streams import open_input

_COMMENT: Final = re.compile(r"^[ \t]*(?:#|//).*$", re.MULTILINE)
"""A line that is only a comment. CockroachDB's documentation begins its examples with one. No line
of JSON begins so, not even inside a string, which holds no line breaks."""


def file_name(file: str) -> str:
    """Returns the name of a file for messages."""
    return "stdin" if file == "-" else file


def read_json(file: str) -> Any:
    """Reads a file of JSON, in which lines may be comments.

    Args:
        file: A path, or `-` for stdin.

    Raises:
        InputError: The file cannot be read, or is not JSON.
    """
    name = file_name(file)
    try:
        with open_input(file) as opened:
            text = opened.read().decode()
        # A comment's line stays, empty, so that errors give the right lines.
        return json.loads(_COMMENT.sub("", text))
    except json.JSONDecodeError as wrong:
        at = f"line {wrong.lineno} column {wrong.colno}"
        raise InputError(f"{name} is not JSON: {wrong.msg} at {at}") from None
    except (UnicodeDecodeError, RecursionError):
        raise InputError(f"{name} is not JSON") from None
