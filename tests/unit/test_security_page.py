"""Whoever tries what docs/security.md shows of the policy file gets what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import pages

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
POLICY: Final = pages.fenced(PAGE, "toml")[0]
ASKED: Final = [
    (command, shown or "")
    for command, shown in pages.blocks(PAGE)
    if "keyfold-server policy" in command
]

FILES: Final = {
    "callers": "tests/e2e/test_callers.py",
    "rights": "tests/unit/test_service_rights.py",
    "limits": "tests/e2e/test_limits.py",
    "browser": "tests/unit/test_connect.py",
    "visitors": "tests/integration/test_console_visitors.py",
    "headers": "tests/unit/test_console_headers.py",
    "clusters": "tests/integration/test_console_clusters.py",
    "regional": "tests/unit/test_service_served.py",
    "customers": "tests/integration/test_console_customers.py",
}
"""The page's short names of files of tests."""


@pytest.mark.parametrize(("command", "shown"), ASKED)
def test_the_page_shows_what_the_policy_commands_print(
    tmp_path: Path, command: str, shown: str
) -> None:
    """The policy on the page loads, and decides as the page says, by the lines that it names."""
    (tmp_path / "policy.toml").write_text(POLICY, encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={"PATH": path, "KEYFOLD_POLICY": "policy.toml"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == shown


def test_the_page_shows_each_answer() -> None:
    """The page shows an allowed, a hidden and a denied call, and what a caller may do."""
    assert [shown.split()[0] for _, shown in ASKED] == [
        "allowed:",
        "hidden:",
        "denied:",
        "policy.toml:20",
    ]


def test_the_tests_that_the_page_names_exist() -> None:
    """Whoever looks for the proof of a promise finds it."""
    named = re.findall(r"`([\w/.]+)::(\w+)`", PAGE)
    assert named
    for file, test in named:
        source = (ROOT / FILES.get(file, file)).read_text(encoding="utf-8")
        assert f"def {test}(" in source, f"{file}::{test}"
