"""The arithmetic of `cpu`: from CPU seconds and calls to a comparison of two servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """Two runs, one right after the other, in CPU µs per call of the service and of the echo."""

    service: float
    echo: float


def per_call(before: float, after: float, calls: int) -> float:
    """Returns CPU µs per call, from the CPU seconds before and after a run."""
    return (after - before) / calls * 1e6


@dataclass(frozen=True, slots=True)
class Comparison:
    """The measurements of one method.

    Attributes:
        name: The method's name, with the size of its batch.
        items: Number of keys in one call.
        pairs: At least one pair of runs, in the order of measurement.
    """

    name: str
    items: int
    pairs: Sequence[Pair]

    @property
    def service(self) -> tuple[float, float, float]:
        """The service's smallest, median and largest CPU µs per call."""
        return _spread([pair.service for pair in self.pairs])

    @property
    def echo(self) -> tuple[float, float, float]:
        """The echo's smallest, median and largest CPU µs per call."""
        return _spread([pair.echo for pair in self.pairs])

    @property
    def ratio_of_medians(self) -> float:
        """The service's median divided by the echo's."""
        return self.service[1] / self.echo[1]

    @property
    def ratio(self) -> float:
        """The median of the ratios within the pairs.

        Use this figure: other work of the machine disturbs both runs of a pair alike.
        """
        return median(pair.service / pair.echo for pair in self.pairs)

    @property
    def middle_half(self) -> tuple[float, float]:
        """The two ratios between which half of the pairs lie; far apart, they show noise."""
        ratios = sorted(pair.service / pair.echo for pair in self.pairs)
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        return low, high

    @property
    def above_echo(self) -> float:
        """The median of the service's cost beyond the echo's, in µs per key."""
        return median(pair.service - pair.echo for pair in self.pairs) / self.items

    def as_json(self) -> dict[str, Any]:
        """Returns every figure, and every single run."""
        return {
            "name": self.name,
            "items": self.items,
            "service_us_per_call": self.service,
            "echo_us_per_call": self.echo,
            "ratio_of_medians": self.ratio_of_medians,
            "pairwise_ratio": self.ratio,
            "pairwise_ratio_middle_half": self.middle_half,
            "service_us_per_item": self.service[1] / self.items,
            "above_echo_us_per_item": self.above_echo,
            "pairs": [pair._asdict() for pair in self.pairs],
        }


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), median(values), max(values)


def table(comparisons: Sequence[Comparison]) -> str:
    """Returns the table of the comparisons."""
    rows = [
        [
            "CPU us per call",
            "pairs",
            "keyfold min/median/max",
            "echo min/median/max",
            "medians",
            "pairwise (middle half)",
            "per key",
            "above echo",
        ]
    ]
    for c in comparisons:
        low, high = c.middle_half
        rows.append(
            [
                c.name,
                str(len(c.pairs)),
                " / ".join(f"{value:.0f}" for value in c.service),
                " / ".join(f"{value:.0f}" for value in c.echo),
                f"{c.ratio_of_medians:.3f} x",
                f"{c.ratio:.3f} x ({low:.2f}-{high:.2f})",
                f"{c.service[1] / c.items:.2f}",
                f"{c.above_echo:.2f}",
            ]
        )
    return aligned(rows)


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
