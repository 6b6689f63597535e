"""`make bench`: measures keyfold-server, one case after another.

README.md describes the cases and explains their figures.
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

# The cases import one another as the tests and the type checker do, and use parts of `tests/`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import committed, figures, goals, load, machine

CPU: Final = "cpu"
"""The case that prints tables of its own."""

CASES: Final[Mapping[str, str]] = {
    "revoke": "revocation",
    "isolation": "isolation",
    "lag": "lag",
    "curves": "curves",
    "slow": "slow",
    "scale": "scale",
    "million": "million",
    "fleet": "fleet",
    "keyusage": "key_usage",
    "memory": "memory",
    "drip": "dripping",
    "hidden": "hidden",
    "relay": "relaying",
    "console": "browsing",
    "mutations": "mutations",
    "backlog": "backlog",
    "operations": "operations",
    "client": "client",
    "clientcache": "client_cache",
    "coalesce": "together",
    "disable": "disabling",
    "watchers": "watchers",
}
"""The cases with goals, and the module of each. `main` calls the module's `measure`."""

_OF_SCALE: Final = {"scale", "fleet", "million"}
"""The cases whose committed figures are in docs/scale.md."""

_BUSY: Final = 0.5
"""Load average per core beyond which the figures are noisy."""


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
        print("The machine is busy: use only the pairwise ratios, and measure again.")
    content: dict[str, Any] = {"machine": facts, "quick": options.quick}
    with tempfile.TemporaryDirectory(prefix="keyfold-bench-") as name:
        for case in chosen:
            folder = Path(name) / case
            folder.mkdir()
            if case == CPU:
                content["cpu"] = _cpu(folder, facts, quick=options.quick, commit=options.commit)
            else:
                plan = goals.Plan(
                    folder,
                    quick=options.quick,
                    whole=options.whole,
                    commit=options.commit,
                    circumstances=_circumstances(facts),
                )
                content.setdefault("figures", []).extend(_case(case, plan))
    if options.json:
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [CPU, *CASES]
    # Not `choices`: with those argparse would demand at least one case.
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"which of {', '.join(names)}; all if left out"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see whether it runs")
    parser.add_argument(
        "--whole",
        action="store_true",
        help="let `memory` and `operations` use every cluster, which takes minutes",
    )
    parser.add_argument(
        "--commit",
        action="store_true",
        help="put these figures in place of the committed ones",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to this file"
    )
    options = parser.parse_args()
    for name in options.cases:
        if name not in names:
            parser.error(f"there is no case {name}; the cases are {', '.join(names)}")
    options.cases = list(dict.fromkeys(options.cases))
    return options


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    """Exits through every `finally`, so that the servers end too."""
    sys.exit(128 + number)


def _cpu(folder: Path, facts: Mapping[str, str], *, quick: bool, commit: bool) -> dict[str, Any]:
    """Measures `cpu`, prints its tables and returns its part of the JSON."""
    from bench import cpu, inprocess

    print("\nServers under h2load, in turns:")
    load_before = os.getloadavg()[0]
    rows = cpu.measure(folder, cpu.QUICK if quick else cpu.FULL)
    ratios = cpu.ratios(rows)
    before = committed.read().get(CPU, {}).get("ratios", {}) if committed.FIGURES.exists() else {}
    costs = figures.cost_table(rows)
    print(figures.aligned(costs))
    print()
    known = {name: each["value"] for name, each in before.items()}
    print(figures.aligned(figures.ratio_table(ratios, known)), flush=True)
    content: dict[str, Any] = {
        "machine": dict(facts),
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "ratios": {each.what: each.as_json() for each in ratios},
        "costs": costs,
    }
    if quick:
        return content
    print("\nThe service's own code, without a transport (this does not measure the server):")
    own = inprocess.measure(folder, quick=quick)
    print(inprocess.table(own), flush=True)
    content["in_process"] = {row.name: [row.smallest, row.median] for row in own}
    if commit:
        text = "\n\n".join(
            [
                _circumstances(facts),
                figures.markdown(figures.ratio_table(ratios)),
                figures.markdown(costs),
                figures.markdown(inprocess.rows(own)),
            ]
        )
        committed.write(CPU, content, text)
    return content


def _circumstances(facts: Mapping[str, str]) -> str:
    """Returns when and where figures are measured, and how busy the machine is."""
    described = "; ".join(f"{name} {value}" for name, value in facts.items())
    today = time.strftime("%Y-%m-%d", time.gmtime())
    return f"Measured on {today} (load average over one, five and fifteen minutes): {described}."


def _case(case: str, plan: goals.Plan) -> list[dict[str, Any]]:
    """Measures a case with goals, prints its table and returns its part of the JSON."""
    began, load_before = time.monotonic(), os.getloadavg()[0]
    # Imported only now, because a case does not need what another case imports.
    measure: goals.Measure = importlib.import_module(f"bench.{CASES[case]}").measure
    try:
        measured = measure(plan)
    except goals.SkippedError as skipped:
        print(f"\n{case}: skipped: {skipped}", flush=True)
        return []
    took = time.monotonic() - began
    during = f"{took:.0f} s, load average {load_before:.1f} to {os.getloadavg()[0]:.1f}"
    print(f"\n{case}, {during}:")
    print(goals.table(measured), flush=True)
    found = [figure.as_json() for figure in measured]
    if plan.commit and not plan.quick and case in _OF_SCALE:
        text = f"{plan.circumstances} This case took {during}."
        content = {"circumstances": text, "figures": found}
        lines = figures.markdown(goals.rows(measured))
        committed.write(case, content, f"{text}\n\n{lines}", committed.SCALE)
    return found


if __name__ == "__main__":
    main()
