"""docs/python.md keeps its promises: its test passes, and the names in it exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import keyfold
import keyfold.errors.branches
import keyfold.integrations
import keyfold.testing.fixtures
from pages import fenced

PAGE: Final = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path: Path) -> None:
    """The lines of docs/python.md are a conftest and a test, and pass as they stand there."""
    conftest, test = (
        text
        for text in fenced(PAGE, "python")
        if "keyfold_server" in text or "pytest_plugins" in text
    )
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_app.py").write_text(test)
    run = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "-W",
        "error",
    ]
    done = subprocess.run(
        run, cwd=tmp_path, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert len([line for line in test.splitlines() if line.strip()]) <= 16


def test_the_names_exist() -> None:
    """What the page calls by name is in the package."""
    names = set(re.findall(r"`keyfold\.(\w+)", PAGE)) - {"v1"}
    assert {"Client", "Tls", "testing", "__version__"} <= names
    for name in names:
        assert hasattr(keyfold, name), name
    errors = set(re.findall(r"`(\w+Error)`", PAGE)) - {"TypeError", "ValueError", "OSError"}
    for name in errors:
        assert issubclass(getattr(keyfold, name), keyfold.KeyfoldError)
    members = set(re.findall(r"^\| `(\w+)[`(]|^\| `with (\w+)\(", PAGE, re.MULTILINE))
    for name in filter(None, (one for pair in members for one in pair)):
        assert hasattr(keyfold.testing.Server, name), name
