"""The result of a probe: as text for people, as JSON, and as metrics."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from keyfold.cli.output.tables import coloured, console, styled_table
from keyfold.cli.output.text import one_line
from keyfold.probe import Step


def show_probe(steps: Sequence[Step]) -> None:
    """Prints the steps of a probe, and how long each took."""
    out = console()
    table = styled_table("STEP", "SERVER", "OUTCOME", "TIME", "MESSAGE")
    for step in steps:
        table.add_row(
            step.step,
            one_line(step.server),
            coloured("PASSED" if step.passed else "FAILED"),
            f"{step.seconds * 1000:.0f} ms",
            one_line(_problem(step)) or "-",
        )
    out.print(table)


def tell_failed(steps: Sequence[Step]) -> None:
    """Prints a line on stderr for each server that failed: its address, and the first problem."""
    first: dict[str, Step] = {}
    for step in steps:
        if not step.passed:
            first.setdefault(step.server, step)
    sys.stdout.flush()  # so that the lines come below the table
    for server, step in first.items():
        line = f"error: {server} failed at {step.step}: {_problem(step)}"
        typer.echo(one_line(line), err=True)


def as_objects(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Returns the steps for JSON."""
    return [
        {
            "step": step.step,
            "server": step.server,
            "passed": step.passed,
            "seconds": round(step.seconds, 6),
            "reason": "" if step.error is None else step.error.reason,
            "message": _problem(step),
            "broken": bool(step.broken),
        }
        for step in steps
    ]


def as_metrics(steps: Sequence[Step]) -> str:
    """Returns the result in Prometheus' text format, for example for a textfile collector."""
    return "".join(f"{line}\n" for line in _metric_lines(steps))


def _metric_lines(steps: Sequence[Step]) -> Iterator[str]:
    yield "# HELP keyfold_probe_success Whether every step of the last probe passed."
    yield "# TYPE keyfold_probe_success gauge"
    yield f"keyfold_probe_success {int(all(step.passed for step in steps))}"
    yield "# HELP keyfold_probe_broken Steps of the last probe that found a broken promise."
    yield "# TYPE keyfold_probe_broken gauge"
    yield f"keyfold_probe_broken {sum(bool(step.broken) for step in steps)}"
    yield "# HELP keyfold_probe_time_seconds Unix time at which the last probe ended."
    yield "# TYPE keyfold_probe_time_seconds gauge"
    yield f"keyfold_probe_time_seconds {time.time():.3f}"
    yield "# HELP keyfold_probe_step_seconds Time that each step of the last probe took."
    yield "# TYPE keyfold_probe_step_seconds gauge"
    longest: dict[tuple[str, str], float] = {}
    for step in steps:
        place = step.step, step.server
        longest[place] = max(longest.get(place, 0.0), step.seconds)
    for (name, server), seconds in longest.items():
        label = server.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        yield f'keyfold_probe_step_seconds{{step="{name}",server="{label}"}} {seconds:.6f}'


def _problem(step: Step) -> str:
    if step.error is not None:
        return f"{step.error.message} ({step.error.reason})"
    return step.broken
