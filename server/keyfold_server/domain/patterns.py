"""Patterns of names: text in which `*` stands for any run of characters.

Patterns are matched as plain text. None of them becomes a regular expression, so no pattern can be
slow, and `*` is the only special character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


class Pattern:
    """A text in which each `*` stands for any run of characters, including none.

    With separators, a `*` stays within one segment, and text and pattern must have the same
    separators: `spiffe://example.org/ns/*/sa/web` names one account in every namespace, and never a
    longer path.
    """

    __slots__ = ("_segments", "_split", "text")

    def __init__(self, text: str, separators: str = "") -> None:
        """Takes the text, and the characters that no `*` stands for."""
        self.text = text
        self._split = re.compile(f"([{re.escape(separators)}])") if separators else None
        self._segments = [part.split("*") for part in self._parts(text)] if "*" in text else None

    def matches(self, text: str) -> bool:
        """Says whether the pattern matches the whole text."""
        if self._segments is None:
            return text == self.text
        parts = self._parts(text)
        return len(parts) == len(self._segments) and all(map(_fits, parts, self._segments))

    def _parts(self, text: str) -> list[str]:
        return [text] if self._split is None else self._split.split(text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _fits(text: str, pieces: list[str]) -> bool:
    """Says whether a text consists of the pieces, in order, with anything between them.

    Each middle piece is taken where it first occurs, which leaves the most text to the others.
    """
    if len(pieces) == 1:
        return text == pieces[0]
    first, *middle, last = pieces
    end = len(text) - len(last)
    if len(first) > end or not (text.startswith(first) and text.endswith(last)):
        return False
    at = len(first)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


@dataclass(frozen=True, slots=True)
class Patterns:
    """Alternative patterns, one of which must match."""

    items: tuple[Pattern, ...]

    def match(self, text: str) -> bool:
        """Says whether any of the patterns matches the text."""
        return any(pattern.matches(text) for pattern in self.items)

    def __str__(self) -> str:
        return ", ".join(pattern.text for pattern in self.items)
