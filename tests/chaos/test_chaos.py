"""A quick subset of the chaos suite: short runs of the code as it is, and without a safeguard."""

from __future__ import annotations

from pathlib import Path

import pytest

import postgres
from chaos.fleet import KINDS, LAGGING, POSTGRESQL, SYNCHRONOUS
from chaos.patching import Patch, copied, patches
from chaos.trial import Plan, run
from e2e.server import ROOT


@pytest.mark.parametrize("patch", patches(), ids=lambda patch: patch.path.stem)
def test_patch_applies(patch: Patch, tmp_path: Path) -> None:
    """Each patch that takes a safeguard away applies to the code and names where it shows."""
    copied(tmp_path, patch)
    assert patch.kind in KINDS


def quick(folder: Path, kind: str, *faults: str, tree: Path = ROOT) -> list[str]:
    """Makes a short run and returns what it found."""
    folder.mkdir()
    plan = Plan(20_261, 3.0, 0, kind, tree, faults)
    return [str(violation) for violation in run(plan, folder).violations]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost(kind: str, tmp_path: Path) -> None:
    """A6, R1, R2, R6, S1, S2, S5, S8: under kills, the history fits the model, and all keys open.

    PostgreSQL also fails over. With a synchronous standby nothing is lost, and a server that stays
    with the old primary refuses; with a lagging standby every server refuses.
    """
    if kind in {POSTGRESQL, SYNCHRONOUS, LAGGING}:
        postgres.programs("15")
    assert quick(tmp_path / "run", kind, "kill", "twins", "overtake", "rotate", "ban") == []


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("commit-not-applied", "revoked"),
        ("overtaken-load-kept", "refusal"),
        ("ban-not-checked", "banned"),
    ],
)
def test_a_missing_safeguard_is_found(name: str, check: str, tmp_path: Path) -> None:
    """R1, R2, A6: the validation notices what serves after a commit, a refusal or a ban."""
    [patch] = [patch for patch in patches() if patch.path.stem == name]
    tree = copied(tmp_path / "tree", patch)
    violations = quick(tmp_path / "run", patch.kind, *patch.faults, tree=tree)
    assert any(violation.startswith(f"{check}: ") for violation in violations), violations
