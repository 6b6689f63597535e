"""The committed figures: `figures.json`, and the parts of README.md and docs/scale.md from it.

`bench/run.py … --commit` replaces them, so that no number there is typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_FOLDER: Final = Path(__file__).parent
FIGURES: Final = _FOLDER / "figures.json"
README: Final = _FOLDER / "README.md"
SCALE: Final = _FOLDER.parent / "docs" / "scale.md"


def read() -> dict[str, Any]:
    """Returns the committed figures, by case."""
    content: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return content


def write(case: str, figures: Mapping[str, Any], text: str, page: Path = README) -> None:
    """Replaces the committed figures of a case, and its part of a page.

    Args:
        case: The case's name.
        figures: The figures, for programs.
        text: The same for people, in Markdown.
        page: The page.
    """
    content = read() if FIGURES.exists() else {}
    content[case] = figures
    FIGURES.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    page.write_text(replaced(page.read_text(encoding="utf-8"), case, text), encoding="utf-8")


def replaced(page: str, case: str, text: str) -> str:
    """Returns a page with another text between the two marks of a case.

    Raises:
        ValueError: The page does not have the marks.
    """
    begin, end = f"<!-- {case}: from figures.json -->\n", f"<!-- {case}: end -->\n"
    before, found, rest = page.partition(begin)
    _, also_found, after = rest.partition(end)
    if not found or not also_found:
        raise ValueError(f"the page has no place for the figures of {case}")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"
