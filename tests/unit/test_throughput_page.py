"""docs/throughput.md: its program runs and prints what the page shows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pages import assert_runs
from served import served

PAGE = Path(__file__).parents[2] / "docs" / "throughput.md"


def test_the_program_of_the_page(tmp_path: Path) -> None:
    """A reader who pastes the program gets a thousand keys."""
    page = PAGE.read_text(encoding="utf-8")
    with served(tmp_path) as server:
        here = {"127.0.0.1:7443": server.keyfold.target}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        assert_runs(page, folder=tmp_path, environment=os.environ | {"PATH": path}, here=here)
