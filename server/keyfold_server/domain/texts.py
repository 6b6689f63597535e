"""Texts that callers write for people: reasons, descriptions and names for people.

They stand in the log, in tables of the command line and in pages of the console, a line each. So
one rule holds for all of them: no character that ends a line, controls a terminal, or changes how
the text around it reads. What a reader sees is then what the caller wrote, and one line of a log is
one entry.
"""

from __future__ import annotations

from typing import Final
from unicodedata import category

from keyfold_server.domain.errors import InvalidReasonError

MAX_REASON: Final = 1_024
"""Most characters in a reason for the audit trail."""

_REFUSED: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Unicode's controls, formats (which turn the direction of text, or show nothing), and separators
of lines and paragraphs."""

_JOINERS: Final = frozenset("\u200c\u200d")
"""Formats that Persian, the scripts of India and emoji need, and that turn nothing around."""


def fault_of_text(text: str, most: int) -> str | None:
    """Returns what is wrong with a text, to follow the name of its field, or None.

    Args:
        text: The text as the caller sent it.
        most: The most characters that it may have.
    """
    if len(text) > most:
        return f"has {len(text):,} characters; use at most {most:,}"
    for at, one in enumerate(text, 1):
        if category(one) in _REFUSED and one not in _JOINERS:
            return (
                f"has U+{ord(one):04X} as character {at}; write one line, without control "
                "characters and without those that change the direction of text"
            )
    return None


def check_reason(reason: str) -> None:
    """Refuses a reason that the audit trail cannot show as one line.

    Raises:
        InvalidReasonError: It is longer than `MAX_REASON`, or has a character that is refused.
    """
    if fault := fault_of_text(reason, MAX_REASON):
        raise InvalidReasonError(f"reason {fault}", field="reason")
