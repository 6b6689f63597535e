"""Text that is safe to print on a terminal.

Messages, names and policies come from the server and from a customer's KMS. A control character
in them could move the cursor or rewrite the screen, so none is printed.
"""

from __future__ import annotations

from datetime import timedelta


def one_line(text: str) -> str:
    """Returns the text in one line, without control characters."""
    return " ".join(_printable(text).split())


def whole_lines(text: str) -> str:
    """Returns the text with its lines and indentation, without control characters."""
    return "\n".join(map(_printable, text.expandtabs(4).rstrip().splitlines()))


def span_text(span: timedelta) -> str:
    """Returns a span of time as people say it, such as `2 h 5 min` or `40 s`."""
    seconds = round(span.total_seconds())
    if seconds < 60:  # noqa: PLR2004  seconds of a minute
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


def counted(count: int, what: str) -> str:
    """Returns a number of things, such as `1 cluster` or `2,000 clusters`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
