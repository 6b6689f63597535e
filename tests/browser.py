"""A browser for tests: Debian's Chromium, driven by Playwright, and axe-core to look for barriers.

`make tools TOOLS="chromium axe"` gets both. Playwright brings no browser of its own here.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parents[1]
"""The repository's folder."""

_INSTALL: Final = 600.0
"""Seconds in which Debian's package is installed."""

_TAGS: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
"""What axe holds a page to: WCAG 2.2 at level AA, and its own good practice."""


@cache
def _found(name: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [ROOT / "scripts" / "browser.sh", name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INSTALL,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def _path(name: str) -> Path:
    """Returns what the script got; skips the test if it cannot, or in CI fails it."""
    code, path, problem = _found(name)
    if code != 0:
        reason = problem.splitlines()[-1] if problem else f"scripts/browser.sh {name} failed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(path)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Starts Chromium, and ends it.

    Tests that use it are not asynchronous, because Playwright runs a loop of its own meanwhile.
    """
    path = _path("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


@cache
def _axe() -> str:
    return _path("axe").read_text()


def barriers(page: Page, *rules: str) -> list[str]:
    """Returns what axe finds on a page, one line each; nothing is what a page should have.

    Args:
        page: The page.
        *rules: The rules to look for; none stands for all of WCAG 2.2 AA, and good practice.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(_axe())
    only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": _TAGS}
    found: dict[str, Any] = page.evaluate(
        "only => axe.run({runOnly: only, resultTypes: ['violations']})", only
    )
    return [
        f"{page.url}: {each['id']}: {each['help']}: {node['html']} ({node['failureSummary']})"
        for each in found["violations"]
        for node in each["nodes"]
    ]
