"""One run: lets servers, clients and faults loose, validates the history, checks what is left."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.board import Board
from chaos.faults import Faults
from chaos.fleet import GRACE, SQLITE, STALENESS, TTL, Fleet
from chaos.history import History
from chaos.left import left
from chaos.order import Violation
from chaos.traffic import Client
from chaos.validate import validate
from e2e.server import ROOT
from lateness import Lateness

CLIENTS: Final = 8
CHANGERS: Final = 4
"""Clients that make changes; the other clients use keys."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Parameters of one run.

    Attributes:
        seed: Seed of the draws of calls and faults.
        seconds: Seconds for which faults are caused.
        kills: Number of servers that must have been killed before the run ends.
        kind: One of `fleet.KINDS`.
        tree: Root of the code that the servers run.
        faults: Names of the faults to choose from; empty means all.
    """

    seed: int
    seconds: float = 8.0
    kills: int = 0
    kind: str = SQLITE
    tree: Path = ROOT
    faults: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """The result of a run.

    Attributes:
        violations: Violations that the validation found.
        counts: Numbers of calls, changes and faults by name.
    """

    violations: list[Violation]
    counts: Counter[str] = field(default_factory=Counter)


def run(plan: Plan, folder: Path) -> Report:
    """Carries out one run in an empty folder."""
    draw = random.Random(plan.seed)
    kills = random.Random(draw.random())
    fleet = Fleet(folder, plan.tree, plan.kind, kills=kills)
    history = History(servers=len(fleet.servers), staleness=STALENESS, ttl=TTL, grace=GRACE)
    try:
        fleet.start()
        faults = Faults(fleet, history, draw.getrandbits(32), plan.faults)
        try:
            _let_loose(fleet, history, faults, plan, draw)
            history.births = {server.folder.name: server.births for server in fleet.servers}
            violations = [*validate(history), *left(fleet, history)]
        finally:
            history.dump(folder / "history.jsonl")
        counts = _counts(history)
        counts["kills"] = faults.kills + fleet.deaths
        (folder / "violations.txt").write_text("".join(f"{v}\n" for v in violations))
        return Report(violations, counts)
    finally:
        fleet.close()


def _let_loose(
    fleet: Fleet, history: History, faults: Faults, plan: Plan, draw: random.Random
) -> None:
    """Lets clients call while faults are caused; returns when the last of both has ended."""
    board = Board()
    clients = [
        Client(
            number,
            fleet.servers,
            board,
            history,
            draw.getrandbits(32),
            changes=number < CHANGERS,
        )
        for number in range(CLIENTS)
    ]
    clients[0].enable_twins()
    for client in clients:
        client.start()
    try:
        with Lateness(history.machine_late):
            faults.run(plan.seconds, plan.kills)
    finally:
        for client in clients:
            client.ended.set()
        for client in clients:
            client.join(30)
    for client in clients:
        if client.failure is not None:
            raise client.failure
        assert not client.is_alive()


def _counts(history: History) -> Counter[str]:
    attempts = [a for change in history.changes for a in change.attempts]
    uses = [use.attempt for use in history.uses]
    return Counter(
        {
            "changes": len(history.changes),
            "carried out": sum(attempt.answer.done for attempt in attempts),
            "unknown": sum(attempt.answer.unknown for attempt in attempts),
            "replayed": sum(attempt.answer.replayed for attempt in attempts),
            "uses": len(uses),
            "served": sum(attempt.answer.done for attempt in uses),
            "wrapped keys": len(history.blobs),
        }
    )
