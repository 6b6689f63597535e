"""The Helm chart for tests: helm renders it, and kubeconform reads what comes out."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "deploy" / "helm" / "keyfold"
EXAMPLES: Final = sorted((ROOT / "deploy" / "helm" / "examples").glob("*.yaml"))
BASE: Final = next(example for example in EXAMPLES if example.stem == "gcp")
"""The example with the fewest values, for tests that add some."""

BUILDS: Final = 900
"""Seconds that building helm may take, on a machine that has not built it yet."""

Manifest = dict[str, Any]


@functools.cache
def tools() -> Path:
    """Returns the folder of helm, kubeconform and schemas; skips without Go, except in CI."""
    script = ROOT / "scripts" / "kubernetes.sh"
    done = subprocess.run([script], capture_output=True, text=True, check=False, timeout=BUILDS)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no word from the script"])[-1]
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(done.stdout.strip())


def helm(*arguments: str | Path, code: int = 0) -> str:
    """Runs helm, and returns what it prints."""
    done = subprocess.run(
        [tools() / "helm", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def kubeconform(manifests: str) -> str:
    """Returns what kubeconform says of manifests."""
    folder = tools()
    where = f"{folder}/schemas/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    done = subprocess.run(
        [folder / "kubeconform", "-strict", "-summary", "-schema-location", where, "-"],
        input=manifests,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout + done.stderr


def rendered(values: Path, *arguments: str) -> str:
    """Returns the manifests, in namespace and release `keyfold`."""
    return helm("template", "keyfold", CHART, "-n", "keyfold", "-f", values, *arguments)


def read(text: str) -> list[Manifest]:
    """Returns the objects of manifests."""
    return [one for one in yaml.safe_load_all(text) if one]


@functools.cache
def texts() -> dict[str, str]:
    """Returns the manifests of every example as text, by its name."""
    tools()
    with ThreadPoolExecutor(2) as pool:
        return dict(zip([e.stem for e in EXAMPLES], pool.map(rendered, EXAMPLES), strict=True))


def documented() -> dict[str, list[Manifest]]:
    """Returns the manifests of every example, by its name."""
    return {name: read(text) for name, text in texts().items()}


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yields the part and the spec of every pod."""
    for one in manifests:
        spec = one.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def found(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Returns one object."""
    (one,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return one


def environment(pod: Manifest) -> dict[str, str]:
    """Returns the variables of a pod's container."""
    return {one["name"]: one["value"] for one in pod["containers"][0].get("env", ())}
