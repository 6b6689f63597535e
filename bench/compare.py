"""`cpu`: compares a real keyfold-server with an echo, under the same load from h2load."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

from bench import cases, figures, load, servers
from bench.processes import Server, running

_PAIRS: Final = 30
"""Pairs of runs of each row. Short runs keep a disturbance of a second within a pair or two."""

_PAIRS_QUICK: Final = 7
_SCALE_QUICK: Final = 0.5

_FEWEST: Final = 5
"""The fewest pairs of a row, however slow the machine is."""

_TIME: Final = 150.0
"""Seconds for all pairs. Each row stops when it has used its share."""

_TIME_QUICK: Final = 20.0


def measure(folder: Path, *, quick: bool) -> list[figures.Comparison]:
    """Measures every row. The server's files are in `folder`."""
    environment = servers.environment(folder)
    echo_command = [sys.executable, str(Path(__file__).with_name("echo.py"))]
    with (
        running("keyfold-server", servers.command(), environment) as service,
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
    """Measures one row: a real call, a warm-up, pairs of runs, and a real call again."""
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
