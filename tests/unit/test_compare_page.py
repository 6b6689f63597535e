"""docs/compare.md keeps its word: each product's every line is there, with tests that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import pages

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
LINES: Final = {
    "ARX": (
        *("Configure", "Wrap", "Rotate", "Revert", "Regions and status", "Test", "Policy"),
        *("Failure", "Audit"),
    ),
    "Kong Konnect": (
        *("Configure", "Regions", "Policy", "Rotate", "Revoke and failure"),
        "Status, test, audit",
    ),
    "CockroachDB Dedicated": (
        *("Configure", "Wrap", "Status", "Rotate", "Add region", "Revoke", "Restore", "Failure"),
        "Test, audit",
    ),
    "Rockset": (
        *("Configure", "Policy", "Regions", "Rotate", "Failure", "Caches"),
        "Status, test, audit",
    ),
    "Astra DB": (
        *("Configure", "Seats", "Policy", "Regions", "Status", "Rotate", "Remove"),
        "Revoke, restore, test, audit",
    ),
}
"""What each product says of its customers' keys, in the order of its documents."""

SECTIONS: Final = dict(re.findall(r"^## ([^\n]+)$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
NAMED: Final = sorted(set(re.findall(r"`(tests/[^`]*)`", PAGE)))


def rows(section: str) -> list[list[str]]:
    """Returns the cells of each row of a section's table."""
    lines = re.findall(r"^\| (.*) \|$", SECTIONS[section], re.MULTILINE)
    return [line.split(" | ") for line in lines[1:]]


def test_the_products_are_there() -> None:
    """Each compared product has a table of its own."""
    assert tuple(SECTIONS) == tuple(LINES)


@pytest.mark.parametrize("product", LINES)
def test_no_line_of_a_product_is_left_out(product: str) -> None:
    """A reader goes down a product's lines and finds each, in their order."""
    assert tuple(dict.fromkeys(row[0] for row in rows(product))) == LINES[product]


@pytest.mark.parametrize("product", LINES)
def test_each_promise_has_a_way_a_test_and_more(product: str) -> None:
    """A promise is kept by something that a reader can call, and by a test that fails without."""
    for row in rows(product):
        assert len(row) == 5, row
        assert all(row), row
        assert "RECIPE" in row[3] or "`tests/" in row[3], row


@pytest.mark.parametrize("named", NAMED)
def test_every_named_test_exists(named: str) -> None:
    """Whoever follows the page to a test finds it."""
    path, _, test = named.partition("::")
    assert test in pages.tests_of(ROOT / path)
