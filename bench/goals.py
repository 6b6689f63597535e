"""Figures with a goal: what was measured, of how many samples, and whether it is good enough.

A figure is a fact of one run on one machine. Nothing here measures, and no test waits for a goal.
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
    """How a case is to be run.

    Attributes:
        folder: Of the case alone; it goes when the benchmark ends.
        quick: A look at a small size, whose figures mean little.
        whole: `memory` touches every cluster, which takes minutes.
    """

    folder: Path
    quick: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        case: The case's name.
        what: What was measured.
        value: In `unit`.
        unit: Such as `ms`; empty for a count.
        samples: Measurements that the value was made from.
        goal: The value that is good enough, or None where it only explains others.
        at_least: The goal is a lower bound, not an upper one.
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
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def as_json(self) -> dict[str, Any]:
        """Returns every field, and whether the goal is met."""
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
    """A case cannot be measured on this machine; the message says why."""


def percentile(values: Sequence[float], part: float) -> float:
    """Returns the smallest value that at least `part` of the values do not exceed.

    It is one of the values: nothing is made up between two of them.

    Args:
        values: At least one.
        part: Above 0, at most 1; 0.99 is the p99.
    """
    # Rounded first: 0.07 * 100 is a little more than 7.
    rank = math.ceil(round(part * len(values), 9))
    return sorted(values)[max(rank, 1) - 1]


def pairwise(without: Sequence[Sequence[float]], beside: Sequence[Sequence[float]]) -> float:
    """Returns the median of the ratios of p99s of windows that followed each other.

    What else the machine did in such a pair met both halves.

    Args:
        without: Latencies in each window without what is looked at.
        beside: The same with it, each right after its counterpart.
    """
    pairs = zip(without, beside, strict=True)
    return median(percentile(b, 0.99) / percentile(a, 0.99) for a, b in pairs)


def table(figures: Sequence[Figure]) -> str:
    """Returns the table that is printed."""
    head = ["figure", "value", "samples", "goal", "met"]
    return aligned([head, *(_row(figure) for figure in figures)])


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
