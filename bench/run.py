"""`make bench`: a real keyfold-server beside an empty gRPC server under the same load.

README.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

# So that the parts are found by the names that the tests and the type checker use.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import cases, figures, inprocess, load, machine
from bench.processes import Server, running

_PAIRS: Final = 30
"""Of short runs: what disturbs the machine for a second then meets a pair or two."""

_PAIRS_QUICK: Final = 7
_SCALE_QUICK: Final = 0.5

_FEWEST: Final = 5
"""Pairs that a row has at least, however slow the machine is."""

_TIME: Final = 150.0
"""Seconds for all pairs; beyond its part of them a row makes do with the pairs that it has."""

_TIME_QUICK: Final = 20.0

_BUSY: Final = 0.5
"""Load average per core beyond which the figures are marked as noisy."""


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: a look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if not load.installed():
        print(f"{load.PROGRAM} is missing: apt-get install nghttp2-client", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, _terminated)
    facts = machine.facts()
    for name, value in facts.items():
        print(f"{name + ':':14}{value}")
    if os.getloadavg()[0] / (os.cpu_count() or 1) > _BUSY:
        print("The machine is busy: look at the pairwise ratios alone, and measure again.")
    with tempfile.TemporaryDirectory(prefix="keyfold-bench-") as name:
        folder = Path(name)
        environment = _environment(folder)
        _run_keyfold(environment, "dev-keys", "create", cases.ROOT_KEY)
        print("\nServer processes under h2load:")
        compared = _compare(folder, environment, quick=options.quick)
        print(figures.table(compared))
        print("\nThe service's own code, without gRPC (no measure of the server):")
        rows = inprocess.measure(folder, quick=options.quick)
        print(inprocess.table(rows))
    if options.json:
        content = {
            "machine": facts,
            "quick": options.quick,
            "servers": [c.as_json() for c in compared],
            "in_process": [
                {"name": row.name, "min_us": row.smallest, "median_us": row.median} for row in rows
            ],
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    """Leaves through every `finally`, so that the servers end too."""
    sys.exit(128 + number)


def _environment(folder: Path) -> dict[str, str]:
    """Returns an environment in which no setting but ours reaches the server."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("KEYFOLD_")}
    return inherited | {
        "KEYFOLD_LISTEN": "127.0.0.1:0",
        "KEYFOLD_STORE": f"sqlite:///{folder / 'keyfold.db'}",
        "KEYFOLD_LOCAL_KEYS": str(folder / "root-keys.json"),
    }


def _keyfold(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("keyfold-server")), *arguments]


def _run_keyfold(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run(_keyfold(*arguments), env=environment, capture_output=True, check=True)


def _compare(folder: Path, environment: dict[str, str], *, quick: bool) -> list[figures.Comparison]:
    echo_command = [sys.executable, str(Path(__file__).with_name("echo.py"))]
    with (
        running("keyfold-server", _keyfold(), environment) as service,
        running("echo", echo_command, environment) as echo,
    ):
        cases.enable(service.address)
        rows = cases.cases(service.address, _SCALE_QUICK if quick else 1.0)
        pairs = _PAIRS_QUICK if quick else _PAIRS
        seconds = (_TIME_QUICK if quick else _TIME) / len(rows)
        return [_row(service, echo, case, folder, pairs, seconds) for case in rows]


def _row(
    service: Server, echo: Server, case: cases.Case, folder: Path, pairs: int, seconds: float
) -> figures.Comparison:
    """Measures one row: warm-up, pairs of runs, and a real call before and after."""
    began = time.monotonic()
    body = folder / "request"
    body.write_bytes(load.frame(case.request))
    answer = cases.ask(service.address, case.path, case.request)
    case.check(answer)
    for server, size in ((service, len(answer)), (echo, 0)):
        load.run(server.address, case.path, body, case.load, size)
    measured: list[figures.Pair] = []
    while len(measured) < pairs and (len(measured) < _FEWEST or time.monotonic() - began < seconds):
        measured.append(
            figures.Pair(
                _cost(service, case, body, len(answer)),
                _cost(echo, case, body, 0),
            )
        )
        _progress(f"{case.name}: {len(measured)} of {pairs}")
    _progress("")
    after = cases.ask(service.address, case.path, case.request)
    case.check(after)
    return figures.Comparison(case.name, case.items, measured)


def _cost(server: Server, case: cases.Case, body: Path, answer_size: int) -> float:
    """Returns CPU µs per call of one run."""
    before = server.cpu()
    load.run(server.address, case.path, body, case.load, answer_size)
    return figures.per_call(before, server.cpu(), case.load.calls)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:40}\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
