"""Patches: each takes one safeguard out of a copy of the code.

A change has one line of context on each side and no more, so that it survives changes nearby.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from e2e.server import ROOT

PATCHES: Final = Path(__file__).with_name("patches")


class DoesNotApplyError(Exception):
    """A patch no longer fits the code."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch that takes one safeguard away.

    Attributes:
        path: The patch; the lines before its first `diff` describe it under the names below.
        rule: `Rule:`, the rule that is broken.
        takes: `Takes:`, the fault that the patch brings in.
        kind: `On:`, the kind of system on which it shows.
        faults: `Faults:`, names of the faults under which it shows, or all; empty means any.
    """

    path: Path
    rule: str
    takes: str
    kind: str
    faults: tuple[str, ...]


def patches() -> list[Patch]:
    """Reads every patch."""
    found = []
    for path in sorted(PATCHES.glob("*.patch")):
        lines = re.findall(r"^(Rule|Takes|On|Faults): (.+)$", path.read_text(), re.MULTILINE)
        head = dict(lines)
        faults = () if head["Faults"] == "all" else tuple(head["Faults"].split(", "))
        found.append(Patch(path, head["Rule"], head["Takes"], head["On"], faults))
    return found


def copied(folder: Path, patch: Patch | None = None) -> Path:
    """Copies the code into a folder and takes a safeguard out of the copy.

    Raises:
        DoesNotApplyError: The patch does not fit the code any more.
    """
    without = shutil.ignore_patterns("__pycache__")
    for part in ("server", "clients/python"):
        shutil.copytree(ROOT / part, folder / part, ignore=without)
    if patch is not None:
        # If the folder is inside a repository, git would look for the files there.
        environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", patch.path],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DoesNotApplyError(f"{patch.path.name} does not apply: {done.stderr.strip()}")
    return folder
