"""Figures with a goal: a value, its number of samples, and whether it meets the goal.

A figure describes one run on one machine. This module does not measure, and no test waits for a
goal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import aligned


@dataclass(frozen=True, slots=True)
class Plan:
    """Says how to run a case.

    Attributes:
        folder: A folder for this case alone. The benchmark removes it at its end.
        quick: Whether to run at a small size, whose figures mean little.
        whole: Whether `memory` uses every cluster, which takes minutes.
        commit: Whether the case's figures replace the committed ones, if it has any.
        circumstances: When and where the run takes place, for README.md.
    """

    folder: Path
    quick: bool = False
    whole: bool = False
    commit: bool = False
    circumstances: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        case: The case's name.
        what: The figure's name in the table.
        value: The value, in `unit`.
        unit: A unit such as `ms`; empty for a count.
        samples: Number of measurements behind the value.
        goal: The value that is good enough, or None for a figure that only explains others.
        at_least: Whether the goal is a lower bound, not an upper one.
    """

    case: str
    what: str
    value: float
    unit: str
    samples: int
    goal: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the value meets the goal; None if it has no goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def as_json(self) -> dict[str, Any]:
        """Returns every field, and whether the value meets the goal."""
        return {
            "case": self.case,
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "samples": self.samples,
            "goal": self.goal,
            "at_least": self.at_least,
            "met": self.met,
        }


Measure = Callable[[Plan], list[Figure]]
"""Measures one case."""


class SkippedError(Exception):
    """This machine cannot run the case; the message says why."""


def percentile(values: Sequence[float], part: float) -> float:
    """Returns the smallest value that at least `part` of the values do not exceed.

    The result is one of the values, never one between two of them.

    Args:
        values: At least one value.
        part: A number above 0 and at most 1; 0.99 gives the p99.
    """
    # Round first, because 0.07 * 100 is a little more than 7.
    rank = math.ceil(round(part * len(values), 9))
    return sorted(values)[max(rank, 1) - 1]


def pairwise(without: Sequence[Sequence[float]], beside: Sequence[Sequence[float]]) -> float:
    """Returns the median ratio of the p99s of two windows, one right after the other.

    Other work of the machine disturbs both windows of a pair alike.

    Args:
        without: Latencies in each window without the disturbance under test.
        beside: Latencies in each window with it, in the same order.
    """
    pairs = zip(without, beside, strict=True)
    return median(percentile(b, 0.99) / percentile(a, 0.99) for a, b in pairs)


def table(figures: Sequence[Figure]) -> str:
    """Returns the table of the figures."""
    return aligned(rows(figures))


def rows(figures: Sequence[Figure]) -> list[list[str]]:
    """Returns the rows of the table of the figures."""
    head = ["figure", "value", "samples", "goal", "met"]
    return [head, *(_row(figure) for figure in figures)]


def _row(figure: Figure) -> list[str]:
    goal, met = "", ""
    if figure.goal is not None:
        goal = f"{'>=' if figure.at_least else '<='} {_written(figure.goal, figure.unit)}"
        met = "yes" if figure.met else "NO"
    value = _written(figure.value, figure.unit)
    return [figure.what, value, f"{figure.samples:,}", goal, met]


def _written(value: float, unit: str) -> str:
    digits = 0 if value == round(value) else 2
    return f"{value:,.{digits}f} {unit}".rstrip()
