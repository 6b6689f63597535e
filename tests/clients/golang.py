"""Go, as the tests use it: through scripts/go.sh, with the modules of the cache folder."""

from __future__ import annotations

import os
import subprocess
from typing import Final

import pytest

from e2e.server import ROOT

BUILD: Final = 300.0
"""Seconds that building a program may take: the first time, all of gRPC is compiled."""


def run(*arguments: str) -> str:
    """Runs scripts/go.sh and returns its output; skips the test without Go, except in CI."""
    script = [str(ROOT / "scripts" / "go.sh"), *arguments]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=BUILD)
    if done.returncode == 3 and os.environ.get("CI") != "true":
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    """Returns what makes the go command use the cache folder, and nothing that is not there yet."""
    run("build", "./internal/cases", os.devnull)  # Now the modules are there.
    names = ("GOMODCACHE", "GOCACHE", "GOFLAGS", "CGO_ENABLED")
    values = run("run", str(ROOT / "clients" / "go"), "env", *names).splitlines()
    return dict(zip(names, values, strict=True)) | {"GOPROXY": "off", "GONOSUMDB": "*"}
