"""The arithmetic of `cpu`: from runs of contenders in turns to ratios with goals.

A ratio is taken within a round, in which each contender runs once, so other work of the machine
disturbs both sides alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """One run of a contender.

    Attributes:
        cpu: CPU µs of the server for each key.
        p99: The 99th percentile of the calls' latencies, in ms.
        rate: Calls per second.
    """

    cpu: float
    p99: float
    rate: float


Rounds = Sequence[Mapping[str, Sample]]
"""The samples of each contender, by its name, in each round."""


def per_call(before: float, after: float, calls: int) -> float:
    """Returns CPU µs per call, from the CPU seconds before and after a run."""
    return (after - before) / calls * 1e6


@dataclass(frozen=True, slots=True)
class Ratio:
    """What one contender needs of what another needs.

    Attributes:
        what: The ratio's name, which no other ratio has.
        ratios: The ratio in each round; at least one.
        goal: The largest ratio that is good enough, or None.
    """

    what: str
    ratios: Sequence[float]
    goal: float | None = None

    @property
    def value(self) -> float:
        """The median."""
        return median(self.ratios)

    @property
    def middle_half(self) -> tuple[float, float]:
        """The two values between which half of the ratios lie; far apart, they show noise."""
        if len(self.ratios) == 1:
            return self.ratios[0], self.ratios[0]
        low, _, high = quantiles(self.ratios, n=4, method="inclusive")
        return low, high

    @property
    def met(self) -> str:
        """Whether the median meets the goal; empty if there is no goal."""
        if self.goal is None:
            return ""
        return "yes" if self.value <= self.goal else "NO"

    def as_json(self) -> dict[str, Any]:
        """Returns every figure."""
        low, high = self.middle_half
        return {
            "value": round(self.value, 3),
            "low": round(low, 3),
            "high": round(high, 3),
            "rounds": len(self.ratios),
            "goal": self.goal,
        }


def ratio(
    what: str, rounds: Rounds, name: str, beside: str, field: str = "cpu", goal: float | None = None
) -> Ratio:
    """Returns the ratio of a field of two contenders' samples."""
    return Ratio(
        what,
        [getattr(each[name], field) / getattr(each[beside], field) for each in rounds],
        goal,
    )


def ratio_table(
    ratios: Sequence[Ratio], committed: Mapping[str, float] | None = None
) -> list[list[str]]:
    """Returns the table of ratios, each beside the committed one of its name, if any are given."""
    rows = [["ratio", "median", "middle half", "rounds", "goal", "met"]]
    for each in ratios:
        low, high = each.middle_half
        rows.append(
            [
                each.what,
                f"{each.value:.2f} x",
                f"{low:.2f}-{high:.2f}",
                str(len(each.ratios)),
                "" if each.goal is None else f"<= {each.goal:.2f}",
                each.met,
            ]
        )
    if committed is not None:
        rows[0].append("committed")
        for each, row in zip(ratios, rows[1:], strict=True):
            before = committed.get(each.what)
            row.append("" if before is None else f"{before:.2f} x")
    return rows


def cost_table(rows: Mapping[str, Rounds]) -> list[list[str]]:
    """Returns the table of costs: for each row and contender, medians of all rounds."""
    table = [["call", "server", "CPU µs per key", "p99 ms", "calls per second"]]
    for name, rounds in rows.items():
        for contender in rounds[0]:
            cpu, p99, rate = (
                median(getattr(each[contender], field) for each in rounds)
                for field in Sample._fields
            )
            table.append([name, contender, f"{cpu:.1f}", f"{p99:.1f}", f"{rate:,.0f}"])
    return table


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as text in columns, the first aligned left and the others right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as a table of Markdown."""
    head, *lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *lines])
