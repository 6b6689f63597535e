"""The page about the model names code and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = (ROOT / "server" / "keyfold_server", ROOT / "clients" / "python" / "keyfold")
PAGE: Final = (ROOT / "docs" / "model" / "README.md").read_text(encoding="utf-8")
IN_THE_CODE: Final = PAGE.partition("## The names in the code")[2].partition("\n## ")[0]


def test_the_code_that_the_page_names_exists() -> None:
    """Whoever reads the model beside the code finds each name in it."""
    files = [path for room in ROOMS for path in room.rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    rows = re.findall(r"^\| `.*?\| (.*) \|$", IN_THE_CODE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    assert named
    for part in {part for name in named for part in name.split(".")}:
        assert re.search(rf"\b{part}\b", code), part


def test_the_tests_that_the_page_names_exist() -> None:
    """Whoever looks for the test of an invariant finds it in the file that the page names."""
    safeguards = r"(?: \(`\w+`(?:, `\w+`)*\))?"
    named = re.findall(rf"`(tests/[\w/]+\.py)`: ((?:`test_\w+`{safeguards}(?:, )?)+)", PAGE)
    found = [(file, test) for file, tests in named for test in re.findall(r"`(test_\w+)`", tests)]
    assert len(found) == len(re.findall(r"`test_\w+`", PAGE))
    for file, test in found:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {test}(" in source, f"{file}: {test}"
