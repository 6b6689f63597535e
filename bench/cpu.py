"""`cpu`: what a call costs Keyfold on each transport, beside an empty echo and OpenBao.

All contenders run in turns, in short runs under the same load from h2load.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from bench import cases, contenders, load
from bench.contenders import Bao, Contender, Field, Service
from bench.figures import Ratio, Rounds, Sample, per_call, ratio
from bench.goals import percentile
from bench.load import Load, Target, frame

_RUN: Final = 0.25
"""Seconds that each run should take."""

_FIRST: Final = 200
"""Calls of the first run of each contender, which warms it and tells how fast it is."""

_FEWEST: Final = 3
"""The fewest rounds of a row, however slow the machine is."""

GRPC, ASGI, ECHO, ASGI_ECHO, BAO = (
    "keyfold on grpc",
    "keyfold on asgi",
    "empty echo on grpc",
    "empty echo on asgi",
    "openbao",
)

BAO_AS_MANY: Final = "openbao, 64 connections"
"""OpenBao with as many calls under way as the others, where it is plain. h2load sends the next call
of a connection of HTTP/1.1 only when the last one is answered, so 4 connections are 4 calls."""

LOADED: Final = "4 x 16"
SINGLE: Final = "one at a time"
_LOADS: Final = {LOADED: (4, 16), SINGLE: (1, 1)}
"""The connections of each load, and the calls under way on each connection."""

_BATCHES: Final = (1, 100, 1_000)
"""Keys of a call; a single one goes by Wrap."""

_BAO_MOST: Final = 100
"""Keys in the largest batch for OpenBao, which refuses one of a thousand."""

_ONE: Final = Load(_FIRST, 4, 16)
_MANY: Final = Load(16, 4, 2)
"""Eight batches at once keep a server as busy as 64 single calls."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        seconds: Seconds for each row.
        most: The most rounds of each row.
        rows: The names of the rows to measure; empty for all.
    """

    seconds: float
    most: int
    rows: tuple[str, ...] = ()


FULL: Final = Plan(18.0, 15)
QUICK: Final = Plan(
    6.0,
    5,
    ("Wrap, 4 x 16, plain", "Wrap, 4 x 16, tls", "Wrap, one at a time, plain", "batch, plain"),
)


@dataclass(frozen=True, slots=True)
class _Runner:
    """One contender's calls of a row."""

    contender: Contender
    target: Target
    answer_size: int
    load: Load
    request: bytes
    items: int = 1

    def run(self, folder: Path) -> Sample:
        """Runs once."""
        before = self.contender.cpu()
        report, seconds = load.run(self.target, self.load, self.answer_size, folder)
        cpu = per_call(before, self.contender.cpu(), self.load.calls * self.items)
        return Sample(cpu, percentile(seconds, 0.99) * 1000, report.rate)

    def timed(self, folder: Path) -> _Runner:
        """Returns this with as many calls as fit in a run."""
        report, _ = load.run(self.target, self.load, self.answer_size, folder)
        calls = max(self.load.connections * self.load.streams, int(report.rate * _RUN))
        return replace(self, load=replace(self.load, calls=calls))


def measure(folder: Path, plan: Plan) -> dict[str, Rounds]:
    """Measures every row of the plan; returns the rounds of each by its name."""
    measured = {}
    with contenders.serving(folder) as fields:
        for way, field in fields.items():
            for row, make in _rows(field).items():
                name = f"{row}, {way}"
                if not plan.rows or name in plan.rows:
                    measured[name] = _measured(name, make(), folder, plan)
    return measured


def _measured(name: str, runners: Mapping[str, _Runner], folder: Path, plan: Plan) -> Rounds:
    ready = {each: runner.timed(folder) for each, runner in runners.items()}
    began = time.monotonic()
    rounds: list[dict[str, Sample]] = []
    while len(rounds) < plan.most and (
        len(rounds) < _FEWEST or time.monotonic() - began < plan.seconds
    ):
        rounds.append({each: runner.run(folder) for each, runner in ready.items()})
    print(f"{name}: {len(rounds)} rounds, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return rounds


def _rows(field: Field) -> dict[str, Callable[[], dict[str, _Runner]]]:
    """Returns the rows of a way to serve, and what makes the calls of each contender."""
    rows: dict[str, Callable[[], dict[str, _Runner]]] = {
        f"{method}, {name}": partial(_unary, field, method, Load(_FIRST, *shape))
        for name, shape in _LOADS.items()
        for method in ("Wrap", "Unwrap")
    }
    rows["batch"] = partial(_batches, field)
    return rows


def _unary(field: Field, method: str, shape: Load) -> dict[str, _Runner]:
    """Returns the calls of one key."""
    row = {}
    keys = [os.urandom(cases.KEY_SIZE)]
    for transport, service in field.keyfold.items():
        row[service.name] = runner = _service(service, method, keys, shape)
        echo = field.echo[transport]
        row[echo.name] = _Runner(
            echo, echo.target(method, runner.request), len(frame(b"")), shape, runner.request
        )
    if field.openbao is not None:
        row[BAO] = bao = _bao(field.openbao, method, keys, shape)
        if bao.target.http1 and shape.streams > 1:
            as_many = replace(shape, connections=shape.connections * shape.streams, streams=1)
            row[BAO_AS_MANY] = _bao(field.openbao, method, keys, as_many)
    return row


def _batches(field: Field) -> dict[str, _Runner]:
    """Returns batches of each contender, whose cost is that of one key."""
    row = {}
    for count in _BATCHES:
        keys = [os.urandom(cases.KEY_SIZE) for _ in range(count)]
        method, shape = ("Wrap", _ONE) if count == 1 else ("BatchWrap", _MANY)
        for service in field.keyfold.values():
            row[_batch(service.name, count)] = _service(service, method, keys, shape)
        if field.openbao is not None and count <= _BAO_MOST:
            row[_batch(BAO, count)] = _bao(field.openbao, method, keys, shape)
    return row


def _service(service: Service, method: str, keys: list[bytes], shape: Load) -> _Runner:
    request = cases.request(service.ask, method, keys)
    answer = cases.checked(service.ask, method, request, keys)
    target = service.target(method, request)
    return _Runner(service, target, len(frame(answer)), shape, request, len(keys))


def _bao(openbao: Bao, method: str, keys: list[bytes], shape: Load) -> _Runner:
    target, size = openbao.calls(method, keys)
    return _Runner(openbao, target, size, shape, b"", len(keys))


def _batch(name: str, count: int) -> str:
    return f"{name}, {count:,}"


def ratios(rows: Mapping[str, Rounds]) -> list[Ratio]:
    """Returns the ratios that the measured rows allow, with their goals."""
    found = []
    for name, rounds in rows.items():
        if name.startswith("batch"):
            found += _batch_ratios(name, rounds)
            continue
        single = SINGLE in name
        found.append(
            ratio(f"{name}: {GRPC} / {ECHO}", rounds, GRPC, ECHO, goal=None if single else 1.30)
        )
        found.append(ratio(f"{name}: {ASGI} / {ASGI_ECHO}", rounds, ASGI, ASGI_ECHO))
        if BAO in rounds[0]:
            goal = 0.8 if single else 0.35
            found.append(ratio(f"{name}: {ASGI} / {BAO}", rounds, ASGI, BAO, goal=goal))
            found.append(ratio(f"{name}: {GRPC} / {BAO}", rounds, GRPC, BAO))
            # Waiting times compare only with the same number of calls under way.
            bao = BAO_AS_MANY if BAO_AS_MANY in rounds[0] else BAO
            found.append(ratio(f"{name}: p99, {ASGI} / {bao}", rounds, ASGI, bao, "p99", goal=1.0))
    return found


def _batch_ratios(name: str, rounds: Rounds) -> list[Ratio]:
    found = []
    for server in (ASGI, GRPC):
        one, hundred, thousand = (_batch(server, count) for count in (1, 100, 1_000))
        found.append(ratio(f"{name}: {hundred} / 1", rounds, hundred, one))
        found.append(ratio(f"{name}: {thousand} / 100", rounds, thousand, hundred))
    if _batch(BAO, 100) in rounds[0]:
        other = _batch(BAO, 100)
        for count, goal in ((100, 0.7), (1_000, 0.5)):
            own = _batch(ASGI, count)
            found.append(ratio(f"{name}: {own} / {other}", rounds, own, other, goal=goal))
    return found
