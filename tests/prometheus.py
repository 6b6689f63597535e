"""Prometheus for tests: its two programs, and the names and labels of every metric of Keyfold."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Info
from typer import Typer
from typer.main import get_command

from keyfold.cli.output.probe import as_metrics
from keyfold.probe import Step
from keyfold_relay.meters import Meters
from keyfold_server import telemetry

ROOT: Final = Path(__file__).resolve().parents[1]
"""The repository's folder."""

_INSTALL: Final = 600.0
"""Seconds in which Debian's package is installed."""


@cache
def _found() -> tuple[int, str, str]:
    done = subprocess.run(
        [ROOT / "scripts" / "prometheus.sh"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INSTALL,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def folder() -> Path:
    """Returns the folder of `prometheus` and `promtool`; skips the test, or in CI fails it."""
    code, path, problem = _found()
    if code != 0:
        reason = problem or "scripts/prometheus.sh failed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(path)


def promtool(*arguments: str | Path, given: str = "") -> str:
    """Runs promtool, which must find nothing wrong, and returns what it prints."""
    done = subprocess.run(
        [folder() / "promtool", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def series() -> dict[str, frozenset[str]]:
    """Returns every series that Keyfold's programs serve, with the names of its labels.

    A histogram is three of them. The labels that Prometheus adds itself are not in it.
    """
    assert telemetry.CALLS in REGISTRY._collector_to_names
    known = {
        **_registered(REGISTRY),
        **_registered(Meters().registry),
        **{
            name: frozenset(re.findall(r"(\w+)=", labels))
            for name, labels in re.findall(
                r"^(\w+)(\{.*\})? ",
                as_metrics([Step("wrap", "localhost:1", 0.1)]),
                re.MULTILINE,
            )
        },
    }
    return {name: labels for name, labels in known.items() if name.startswith("keyfold_")}


def _registered(registry: CollectorRegistry) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for metric in registry._collector_to_names:
        if not isinstance(metric, Counter | Gauge | Histogram | Info):
            continue
        name, labels = metric._name, frozenset(metric._labelnames)
        if isinstance(metric, Histogram):
            found |= {f"{name}_count": labels, f"{name}_sum": labels}
            found[f"{name}_bucket"] = labels | {"le"}
        elif isinstance(metric, Info):
            found[f"{name}_info"] = labels | frozenset(metric._value)
        else:
            found[f"{name}_total" if isinstance(metric, Counter) else name] = labels
    return found


def command(app: Typer) -> Any:
    """Returns the command of one of the programs, to look at its options."""
    return get_command(app)
