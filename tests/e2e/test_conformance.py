"""What the Connect project's own tests say of the ASGI binding, for Connect and for gRPC.

connectconformance starts `tests/conformance/server.py`, and calls it in some two thousand ways:
with both versions of HTTP, with TLS and client certificates and without, in JSON and protobuf,
packed and not, in streams of every kind.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from e2e.server import ROOT

BUILD: Final = 900.0
"""Seconds that getting connectconformance may take, since the first time it is compiled."""

RUN: Final = 600.0
"""Seconds that its run may take; on two cores with nothing else to do it takes less than one."""

TESTS: Final = ROOT / "tests"
FAILURES: Final = TESTS / "conformance" / "expected_failures.txt"


@pytest.fixture(scope="module")
def tool() -> Path:
    """The folder of connectconformance."""
    found = subprocess.run(
        [ROOT / "scripts" / "connectconformance.sh"], stdout=subprocess.PIPE, text=True, check=False
    )
    if found.returncode == 3:
        pytest.skip("connectconformance cannot be built here")
    assert found.returncode == 0
    return Path(found.stdout.strip())


@pytest.mark.timeout(BUILD + RUN)
def test_the_binding_conforms(tool: Path) -> None:
    """Every case passes, except those that docs/transports.md lists with a reason."""
    done = subprocess.run(
        [
            tool / "connectconformance",
            *("--conf", "conformance/config.yaml"),
            *("--mode", "server"),
            # One after the other: each has ten seconds to start, also on a busy machine.
            *("--max-servers", "1"),
            *("--known-failing", f"@{FAILURES}"),
            "--",
            *(sys.executable, "-m", "conformance.server", tool / "conformance.binpb"),
        ],
        cwd=TESTS,
        env=os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN,
        check=False,
    )
    shown = "\n".join(line for line in done.stdout.splitlines() if not line.startswith("{"))
    assert done.returncode == 0, shown
    passed = re.search(r"^(\d+) passed", shown, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 1_900


def test_the_page_lists_each_expected_failure() -> None:
    """Whoever meets a failure that is expected here finds its reason in docs/transports.md."""
    page = (ROOT / "docs" / "transports.md").read_text(encoding="utf-8")
    lines = FAILURES.read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns
    for pattern in patterns:
        assert f"`{pattern.rpartition('/')[2]}`" in page
