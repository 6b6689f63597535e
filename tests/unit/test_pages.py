"""The pages that people write: what they name exists; the reading path is as long as it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from google.longrunning import operations_proto_pb2

OPERATIONS = operations_proto_pb2.DESCRIPTOR.services_by_name["Operations"]
"""Google's service, which Keyfold's servers offer besides those of its own protos."""

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "server" / "keyfold_server"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "bench" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]

LINES_PER_MINUTE = 60
"""Lines of code, docstrings and comments included, that a newcomer reads with understanding."""

WORDS_PER_MINUTE = 200
"""Words of prose, tables and pictures included."""

PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+/|[\w.-]+\.(?:py|proto|md|toml))(?:::\w+)?`")
"""A file or folder that a page names in backticks; a test's name may follow it."""

MADE = {"protos/released.binpb"}
"""Files that a page names, and that a command will make later."""

PLACES = (ROOT, SERVER, ROOT / "clients" / "python" / "keyfold", ROOT / "requirements")
"""Where a page's short paths may begin."""


def _named(page: Path) -> set[str]:
    """Returns the files and folders that a page names, without those that its reader makes.

    A path with NAME in it is a pattern.
    """
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    names = {match[1] for match in PATH.finditer(text)}
    return {name for name in names if not name.startswith(("~", "/")) and "NAME" not in name}


def _known(page: Path, name: str) -> bool:
    places = (*PLACES, page.parent, SERVER / "service", SERVER / "providers" / "aws")
    return any((place / name).exists() for place in places)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    """A reader who follows a path finds the file: no page names one that moved or went."""
    folders = {path.name for path in ROOT.iterdir()} | {path.name for path in SERVER.iterdir()}
    ours = {name for name in _named(page) if name.split("/")[0] in folders}
    assert {name for name in ours if not _known(page, name)} - MADE == set()


SHOWN = re.compile(r"!\[[^\]]+\]\(([^)\s]+)\)|\b(?:src|srcset)=\"([^\"]+)\"")
"""A picture that a page shows: as Markdown, with words for who does not see it, or as HTML."""


def test_each_picture_is_shown_and_there() -> None:
    """No page shows a picture that is missing, and none is kept that no page shows."""
    shown = {
        (page.parent / (match[1] or match[2])).resolve()
        for page in PAGES
        for match in SHOWN.finditer(page.read_text(encoding="utf-8"))
    }
    kept = {file for place in ("docs", "bench") for file in (ROOT / place / "pictures").iterdir()}
    assert shown == kept


def test_the_index_has_every_page() -> None:
    """Nobody must know a page's name to find it: docs/README.md leads to each."""
    docs = ROOT / "docs"
    index = (docs / "README.md").read_text(encoding="utf-8")
    linked = {(docs / target).resolve() for target in re.findall(r"\]\(([^)#]+)", index)}
    assert {page for page in docs.rglob("*.md") if page.resolve() not in linked} == {
        docs / "README.md"
    }


METHOD = re.compile(
    r"(?<![:.])\b(?:Batch|Create|Delete|Erase|Get|List|Undelete|Update|Watch)[A-Z]\w+\b"
)
"""The names of methods that begin with such a verb; other names of a page do not. What follows a
colon, as in `kms:CreateGrant`, belongs to a cloud."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_methods_that_a_page_names_are_there(page: Path) -> None:
    """No page advises a method that does not exist; the protocol says which are not built yet."""
    protos = "".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "protos").rglob("*.proto")
    )
    there = set(re.findall(r"\brpc (\w+)|\b(?:message|enum) (\w+)", protos))
    known = {name for pair in there for name in pair} | set(OPERATIONS.methods_by_name)
    rules = re.split(r"(?m)^### ", page.read_text(encoding="utf-8"))
    text = "".join(rule for rule in rules if "Not built yet" not in rule)
    # The filters that customers set up at their clouds name the clouds' methods.
    text = re.sub(r"(?ms)^```(?:json|text)$.*?^```$", "", text)
    assert set(METHOD.findall(text)) - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Every link into the repository has a file, and every anchor a headline, at its end."""
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
        file = page if not target else (page.parent / target)
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headlines = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headlines}
            assert anchor in slugs, f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_of_a_page_have_a_head(page: Path) -> None:
    """No blank line splits a table: rows without a head of their own are not shown as a table."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    for table in re.findall(r"(?m)(?:^\|.*(?:\n|\Z))+", text):
        assert re.match(r"\|.*\n\|(?:\s*:?-+:?\s*\|)+(?:\n|\Z)", table), table


def test_no_page_or_docstring_sends_readers_to_a_document_that_they_do_not_have() -> None:
    """Readers have this repository alone: "the design" with its sections is not in it."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--", "*.py", "*.md", "*.proto", "*.toml", "Makefile"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    pattern = re.compile(r"\bdesign(?:'s)?,? section|\bdesign\.md\b", re.IGNORECASE)
    found = [
        name
        for name in tracked
        if name
        and (ROOT / name) != Path(__file__)
        and pattern.search((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert found == []


def test_the_reading_path_takes_thirty_minutes() -> None:
    """The core path of CONTRIBUTING is as long as it says: its files, at a stated pace."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("minutes\n")[2]
    rows = re.findall(r"^\| \d+ \| (.+?) \| (\d+) \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert len(rows) >= 6
    total = 0.0
    for what, minutes in rows:
        takes = 0.0
        for name in re.findall(r"`([\w/.]+\.(?:py|md))`", what):
            file = next(place / name for place in PLACES if (place / name).exists())
            text = file.read_text(encoding="utf-8")
            prose = file.suffix == ".md"
            takes += (
                len(text.split()) / WORDS_PER_MINUTE
                if prose
                else len(text.splitlines()) / LINES_PER_MINUTE
            )
        assert abs(takes - int(minutes)) < 1, (what, takes)
        total += takes
    assert total <= 30
