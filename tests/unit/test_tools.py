"""The scripts that get what tests use: what they say and how they end where they cannot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

SCRIPTS: Final = Path(__file__).parents[2] / "scripts"

WORDS: Final = {
    "grpcurl.sh": "grpcurl: Go is not installed; the tests that need it are skipped\n",
    "go.sh check": "go: Go is not installed; nothing of clients/go is generated or checked\n",
    "interop.sh ghz": "ghz: Go is not installed; the tests that need it are skipped\n",
    "model.sh": "the model: Java 11 or newer is not installed; TLC does not check it\n",
}
"""What scripts say on a machine that has nothing that they need."""

_BASH_USES: Final = ("bash", "basename", "dirname", "env", "sed")


@pytest.mark.parametrize("script", WORDS)
def test_a_machine_without_what_a_tool_needs(script: str, tmp_path: Path) -> None:
    """A script says what is missing and ends with 3, which is a skip; in CI with 1, a failure."""
    for name in _BASH_USES:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    name, *arguments = script.split()

    def ran(ci: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [SCRIPTS / name, *arguments],
            env={"PATH": str(tmp_path), "HOME": str(tmp_path), "CI": ci},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    what, _, _ = WORDS[script].partition(";")
    assert ran("") == (3, "", WORDS[script])
    assert ran("true") == (1, "", f"{what}, and CI needs it\n")


def test_they_say_it_in_one_way() -> None:
    """Only the functions that all scripts share skip a tool, and install packages of Debian."""
    for script in SCRIPTS.glob("*.sh"):
        text = script.read_text()
        assert ("exit 3" in text or "apt-get install --" in text) == (script.name == "lib.sh"), (
            script
        )
