"""The Jobs of the chart: the migration, the export and the probe, whose commands run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helm import BASE, BUILDS, Manifest, documented, pods, read, rendered

pytestmark = pytest.mark.timeout(BUILDS)


def test_the_export_writes_and_removes(tmp_path: Path) -> None:
    """The CronJob's own command writes an export, and removes what is older than it says."""
    pod = dict(pods(documented()["aws"]))["export"]
    old, young = tmp_path / "keyfold-old.jsonl", tmp_path / "keyfold-young.jsonl"
    for file in (old, young):
        file.touch()
    os.utime(old, (0, 0))
    stand_in = tmp_path / "bin" / "keyfold-server"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\n[ "$1 $2" = "export --out" ] && : > "$3"\n')
    stand_in.chmod(0o755)
    subprocess.run(
        pod["containers"][0]["command"],
        env={"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "EXPORTS": str(tmp_path)},
        check=True,
        timeout=30,
    )
    left = {file.name for file in tmp_path.glob("*.jsonl")}
    assert old.name not in left
    assert young.name in left
    assert len(left) == 2


def test_the_probe_asks_every_address(tmp_path: Path) -> None:
    """The CronJob's own command resolves the Service, and checks certificates by its name."""
    pod = dict(pods(documented()["aws"]))["probe"]
    stand_in = tmp_path / "keyfold"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        pod["containers"][0]["command"],
        env={"PATH": path, "SERVERS": "localhost:7443", "CLUSTER": "keyfold-probe"},
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    said = done.stdout.split()
    assert said[:3] == ["probe", "keyfold-probe", "--target"]
    assert "127.0.0.1:7443" in said[3].split(",")
    assert said[4:] == ["--server-name", "localhost"]


def test_a_change_of_the_migration_makes_another_job() -> None:
    """No upgrade changes a Job, which Kubernetes would refuse; another image has another Job."""

    def job(*given: str) -> Manifest:
        (one,) = [m for m in read(rendered(BASE, *given)) if m["kind"] == "Job"]
        return one

    same = job("--set", "replicas=5,drain.graceSeconds=60")
    assert same == job()
    others = [job("--set", given) for given in ("image.tag=0.2.0", "priorityClassName=high")]
    assert len({one["metadata"]["name"] for one in (same, *others)}) == 3
