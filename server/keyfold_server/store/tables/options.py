"""Options of key specs and root keys, as text in a column."""

from __future__ import annotations

import json


def encoded(options: tuple[tuple[str, str], ...]) -> str:
    """Returns options as a column holds them."""
    # JSON in ASCII can hold NUL, which no database takes in a text.
    return json.dumps(dict(options), sort_keys=True, separators=(",", ":")) if options else "{}"


def decoded(text: str) -> tuple[tuple[str, str], ...]:
    """Returns the options in a column of a verified row."""
    return tuple(sorted(json.loads(text).items())) if text != "{}" else ()
