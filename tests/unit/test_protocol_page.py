"""docs/protocol.md keeps its word: every rule is there, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import pages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")

NUMBERS = [
    *("F1", "F2", "F2a", "F2b", "F3", "F4", "F5", "F6", "F7", "F8"),
    *(f"R{n}" for n in range(1, 11)),
    *(f"S{n}" for n in range(14)),
    *(f"W{n}" for n in range(1, 6)),
    *(f"A{n}" for n in range(1, 7)),
    *(f"D{n}" for n in range(1, 7)),
    *(f"C{n}" for n in range(1, 10)),
]

RULES = dict(re.findall(r"^### (\w+)$(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))

NAMED = sorted(set(re.findall(r"`(tests/[^`]*)`", PAGE)))


def test_every_rule_stands_there_once() -> None:
    """The numbers that code and tests refer to are all explained, in their order."""
    assert re.findall(r"^### (\w+)$", PAGE, re.MULTILINE) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_every_rule_is_held_or_not_built_yet(number: str) -> None:
    """A rule names the tests that hold it, or says plainly that it is not built yet."""
    assert "`tests/" in RULES[number] or "not built yet" in " ".join(RULES[number].split()).lower()


@pytest.mark.parametrize("named", NAMED)
def test_every_named_test_exists(named: str) -> None:
    """Whoever follows the page to a test finds it."""
    path, _, test = named.partition("::")
    assert test in pages.tests_of(ROOT / path)


def test_rules_of_the_tests_stand_there() -> None:
    """A test's docstring that begins with a rule's number names a rule of the page."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                begins = re.match(r"((?:[FRSWADC]\d+a?(?:, )?)+):", ast.get_docstring(node) or "")
                for number in begins[1].split(", ") if begins else ():
                    assert number in NUMBERS, f"{path.name}::{node.name}"
