"""Patterns of key uris: which uris one matches, and whether two can match the same uri.

    *     one or more characters other than a slash
    **    one or more characters of any kind
    else  the character itself

`https://*.vault.azure.net/keys/**` and `arn:**` are patterns. One that begins with `https://` also
matches the same uri with `http://`, so that the provider itself can refuse it and say why.

Invariant: `overlaps` is exact, so that a server finds out when it starts, and not from some key's
uri, that two packages claim the same keys. That is why patterns are not regular expressions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(r"\*\*|\*|[^*]", re.DOTALL)
_ANY: Final = "**"
_SEGMENT: Final = "*"
_HTTPS: Final = "https://"


@dataclass(frozen=True, slots=True)
class UriPattern:
    """A pattern of key uris.

    Attributes:
        text: The pattern as it is written.
    """

    text: str

    def matches(self, uri: str) -> bool:
        """Says whether a whole uri has this form."""
        if self.text.startswith(_HTTPS) and uri.startswith("http://"):
            uri = _HTTPS + uri.removeprefix("http://")
        kinds = {_ANY: ".+", _SEGMENT: "[^/]+"}
        tokens = (kinds.get(token) or re.escape(token) for token in _TOKEN.findall(self.text))
        return re.fullmatch("".join(tokens), uri, re.DOTALL) is not None

    def overlaps(self, other: UriPattern) -> bool:
        """Says whether some uri matches both patterns.

        Both patterns are read side by side, one character of an imagined uri at a time: a pair of
        positions is reached if some beginning of a uri leads both patterns there.
        """
        mine, others = _TOKEN.findall(self.text), _TOKEN.findall(other.text)
        reached, pending = {(0, 0)}, [(0, 0)]
        while pending:
            i, j = pending.pop()
            if i == len(mine) and j == len(others):
                return True
            if i == len(mine) or j == len(others) or not _share(mine[i], others[j]):
                continue
            # A character was read. A star may go on with the next one, a literal may not.
            ahead = {
                (a, b)
                for a in ({i, i + 1} if mine[i] in (_SEGMENT, _ANY) else {i + 1})
                for b in ({j, j + 1} if others[j] in (_SEGMENT, _ANY) else {j + 1})
            }
            pending += ahead - reached
            reached |= ahead
        return False


def _share(one: str, other: str) -> bool:
    """Says whether some character fits both tokens."""
    if _ANY in (one, other):
        return True
    if _SEGMENT in (one, other):
        return "/" not in (one, other)
    return one == other
