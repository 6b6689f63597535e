"""Text that is safe to print on a terminal.

Messages, names and policies come from the server and from a customer's KMS. A control character
in them could move the cursor or rewrite the screen, so none is printed.
"""

from __future__ import annotations


def one_line(text: str) -> str:
    """Returns the text in one line, without control characters."""
    return " ".join(_printable(text).split())


def whole_lines(text: str) -> str:
    """Returns the text with its lines and indentation, without control characters."""
    return "\n".join(map(_printable, text.expandtabs(4).rstrip().splitlines()))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
