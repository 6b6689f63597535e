"""`make bench`: measures keyfold-server, one case after another.

README.md says what the cases are and what their figures mean.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

# So that the parts are found by the names that the tests and the type checker use, and those of
# the tests that start a PostgreSQL and turn a clock.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import figures, goals, load, machine

CPU: Final = "cpu"
"""The case that has tables of its own."""

CASES: Final[Mapping[str, str]] = {
    "revoke": "revocation",
    "isolation": "isolation",
    "cold": "cold",
    "shed": "overload",
    "slow": "slow",
    "scale": "scale",
    "memory": "memory",
    "kms-calls": "kms_calls",
    "adapters": "adapters",
    "drip": "dripping",
}
"""Those with goals, and the module of each, whose `measure` is called with the plan."""

_BUSY: Final = 0.5
"""Load average per core beyond which the figures are marked as noisy."""


def main() -> None:
    """Runs the benchmark."""
    options = _options()
    chosen: Sequence[str] = options.cases or [CPU, *CASES]
    if CPU in chosen and not load.installed():
        print(f"{load.PROGRAM} is missing: apt-get install nghttp2-client", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, _terminated)
    facts = machine.facts()
    for name, value in facts.items():
        print(f"{name + ':':14}{value}")
    if os.getloadavg()[0] / (os.cpu_count() or 1) > _BUSY:
        print("The machine is busy: go by the pairwise ratios and counts, and measure again.")
    content: dict[str, Any] = {"machine": facts, "quick": options.quick}
    with tempfile.TemporaryDirectory(prefix="keyfold-bench-") as name:
        for case in chosen:
            folder = Path(name) / case
            folder.mkdir()
            if case == CPU:
                content |= _cpu(folder, quick=options.quick)
            else:
                plan = goals.Plan(folder, quick=options.quick, whole=options.whole)
                content.setdefault("figures", []).extend(_case(case, plan))
    if options.json:
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [CPU, *CASES]
    # Not `choices`: of these argparse would want at least one.
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"all, or of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: a look")
    parser.add_argument("--whole", action="store_true", help="memory: use every cluster, minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    for name in options.cases:
        if name not in names:
            parser.error(f"there is no case {name}; the cases are: {', '.join(names)}")
    options.cases = list(dict.fromkeys(options.cases))
    return options


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    """Leaves through every `finally`, so that the servers end too."""
    sys.exit(128 + number)


def _cpu(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Measures and prints `cpu`; returns its part of the JSON."""
    from bench import compare, inprocess

    print("\nServer processes under h2load:")
    compared = compare.measure(folder, quick=quick)
    print(figures.table(compared))
    print("\nThe service's own code, without gRPC (no measure of the server):")
    rows = inprocess.measure(folder, quick=quick)
    print(inprocess.table(rows), flush=True)
    return {
        "servers": [c.as_json() for c in compared],
        "in_process": [
            {"name": row.name, "min_us": row.smallest, "median_us": row.median} for row in rows
        ],
    }


def _case(case: str, plan: goals.Plan) -> list[dict[str, Any]]:
    """Measures and prints a case with goals; returns its part of the JSON."""
    began = time.monotonic()
    # Not before: a case needs no part of another one's.
    measure: goals.Measure = importlib.import_module(f"bench.{CASES[case]}").measure
    try:
        measured = measure(plan)
    except goals.SkippedError as skipped:
        print(f"\n{case}: skipped: {skipped}", flush=True)
        return []
    print(f"\n{case}, {time.monotonic() - began:.0f} s:")
    print(goals.table(measured), flush=True)
    return [figure.as_json() for figure in measured]


if __name__ == "__main__":
    main()
