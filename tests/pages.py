"""Pages of the documentation: the tests that they name, and the blocks that readers paste.

A page's `sh` blocks are one session of bash, and its `python` blocks run between them. A `go`
block that is a whole program is written to `main.go`. A `text` block shows what came out of the
block before it. There `…` stands for whatever differs, and a line of it alone for any lines. Blank
lines and blanks at the ends of lines do not count.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_MARK: Final = "=== next block ==="
_FENCED: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@functools.cache
def tests_of(path: Path) -> frozenset[str]:
    """Returns the names of a file's tests, for pages that name tests."""
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


def fenced(page: str, language: str) -> list[str]:
    """Returns the texts of a page's blocks in one language."""
    return [text for found, text in _FENCED.findall(page) if found == language]


def shown_json(page: str) -> list[Any]:
    """Returns what a page's indented blocks that begin with a brace say; they must be JSON."""
    return [json.loads(text) for text in re.findall(r"(?m)^    \{.*\n(?:     .*\n)*", page)]


def blocks(page: str) -> list[tuple[str, str | None]]:
    """Returns each block to run with the output that is shown below it, if any."""
    found: list[tuple[str, str | None]] = []
    for language, text in _FENCED.findall(page):
        if language == "text":
            found[-1] = (found[-1][0], text)
        elif language == "sh":
            found.append((text, None))
        elif language == "python":
            found.append((f"python - <<'END_OF_BLOCK'\n{text}END_OF_BLOCK\n", None))
        elif language == "go" and text.startswith("package main"):
            found.append((f"cat > main.go <<'END_OF_BLOCK'\n{text}END_OF_BLOCK\n", None))
    return found


def tidy(text: str) -> str:
    """Returns text without blank lines and blanks at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())


def shape(shown: str) -> re.Pattern[str]:
    """Returns a pattern for all tidy output of the same shape."""
    lines = []
    for line in tidy(shown).splitlines():
        if line == "…":
            lines.append(r"(?:.*\n)*?")
        else:
            lines.append(".*".join(re.escape(part) for part in line.split("…")) + r"\n")
    return re.compile("".join(lines))


def assert_runs(
    page: str,
    *,
    folder: Path,
    environment: Mapping[str, str],
    here: Mapping[str, str] | None = None,
    timeout: float = 300.0,
) -> None:
    """Runs a page's session; its output must be what the page shows.

    Args:
        page: The page's text.
        folder: The folder in which the session runs.
        environment: Its environment.
        here: What takes the place of addresses and paths that the page shows, each of which must
            be there.
        timeout: Seconds that the session may take.
    """
    run = blocks(page)
    script = "".join(f"{text}echo '{_MARK}'\n" for text, _ in run)
    for shown, instead in (here or {}).items():
        assert shown in script, f"the page does not show {shown}"
        script = script.replace(shown, instead)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    outputs = done.stdout.split(f"{_MARK}\n")
    for (text, expected), output in zip(run, outputs, strict=False):
        if expected is not None:
            assert shape(expected).fullmatch(tidy(output)), f"{text}\n{output}"
    assert done.returncode == 0, f"{run[len(outputs) - 1][0]}\n{outputs[-1]}"
    assert len(outputs) == len(run) + 1
